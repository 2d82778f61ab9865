"""Gaussian processes of gpytorch, exact and variational."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, image


def _process(kernel: Callable[[Any], Any]) -> Case:
    """An exact Gaussian process by its marginal likelihood."""
    import gpytorch

    x, y = torch.rand(10, 2, dtype=torch.float64), image(10)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean, self.kernel = gpytorch.means.ConstantMean(), kernel(gpytorch.kernels)

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    class Likelihood(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.process = Process()
            self.marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, self.process)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -self.marginal(self.process(x), y)

    return Case(Likelihood().double().train(), (x, y), loss=lambda loss: loss)


def _variational() -> Case:
    """A sparse Gaussian process by its evidence bound."""
    import gpytorch

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            points = torch.rand(4, 2)
            distribution = gpytorch.variational.CholeskyVariationalDistribution(4)
            super().__init__(gpytorch.variational.VariationalStrategy(self, points, distribution))
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.likelihood, self.process = gpytorch.likelihoods.GaussianLikelihood(), Process()
            self.bound = gpytorch.mlls.VariationalELBO(self.likelihood, self.process, num_data=10)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -self.bound(self.process(x), y)

    return Case(Bound().double().train(), (torch.rand(10, 2, dtype=torch.float64), image(10)), loss=lambda loss: loss)


MODELS: dict[str, Callable[[], Case]] = {
    "RBF": lambda: _process(lambda k: k.ScaleKernel(k.RBFKernel(ard_num_dims=2))),
    "Matern": lambda: _process(lambda k: k.ScaleKernel(k.MaternKernel(nu=2.5))),
    "Matern 0.5": lambda: _process(lambda k: k.ScaleKernel(k.MaternKernel(nu=0.5))),
    "periodic and linear": lambda: _process(lambda k: k.PeriodicKernel() + k.LinearKernel()),
    "rational quadratic": lambda: _process(lambda k: k.RQKernel()),
    "spectral mixture": lambda: _process(lambda k: k.SpectralMixtureKernel(num_mixtures=2, ard_num_dims=2)),
    "variational": _variational,
}

"""What people write with torch.distributions, with its checks of arguments on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as D
from torch import nn

from .case import Case, image


class _Net(nn.Module):
    """A small network whose two results parametrise ``f``; what ``f`` returns is the loss."""

    def __init__(self, f: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], width: int = 4) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2 * width)
        self.f = f

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = self.body(x).chunk(2, -1)
        return self.f(a, b.exp(), y)


class _Autoencoder(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.encoder(x).chunk(2, -1)
        posterior = D.Independent(D.Normal(mean, nn.functional.softplus(deviation)), 1)
        prior = D.Independent(D.Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        z = posterior.rsample()
        likelihood = D.Independent(D.Bernoulli(logits=self.decoder(z)), 1).log_prob((x > 0).double())
        return (D.kl_divergence(posterior, prior) - likelihood).mean()


class _Policy(nn.Module):
    """The clipped objective of PPO."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(3, 4), nn.Linear(3, 1)

    def forward(self, state: Any, action: Any, old: Any, advantage: Any) -> torch.Tensor:
        policy = D.Categorical(logits=self.actor(state))
        ratio = (policy.log_prob(action) - old).exp()
        clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        value = (self.critic(state).squeeze(-1) - advantage).square().mean()
        return -clipped.mean() + 0.5 * value - 0.01 * policy.entropy().mean()


def _policy() -> Case:
    batch = image(8, 3), torch.randint(0, 4, (8,)), image(8).abs().neg(), image(8)
    return Case(_Policy().double(), batch, loss=lambda loss: loss)


class _Mixture(nn.Module):
    """A mixture of Gaussians by its likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.means = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3, 2))
        self.scales = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = D.Independent(D.Normal(self.means, self.scales.exp()), 1)
        return -D.MixtureSameFamily(D.Categorical(logits=self.logits), parts).log_prob(x).mean()


class _Bayesian(nn.Module):
    """A linear layer with a distribution over its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.full((3, 4), -2.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weights = D.Normal(self.mean, self.log_scale.exp())
        error = (x @ weights.rsample() - y).square().mean()
        return error + 0.01 * D.kl_divergence(weights, D.Normal(0.0, 1.0)).sum()


class _RealNVP(nn.Module):
    """A normalising flow: a transformed distribution with learned coupling layers."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.new_zeros(x.shape[0])
        for net in self.nets:
            kept, moved = x.chunk(2, -1)
            scale, shift = net(kept).chunk(2, -1)
            x = torch.cat([moved * scale.tanh().exp() + shift, kept], -1)
            total = total + scale.tanh().sum(-1)
        base = D.MultivariateNormal(x.new_zeros(4), torch.eye(4, dtype=x.dtype))
        return -(base.log_prob(x) + total).mean()


IDENTITY = torch.eye(4, dtype=torch.float64)
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Normal": lambda a, b, y: -D.Normal(a, b).log_prob(y).mean(),
    "Laplace": lambda a, b, y: D.Laplace(a, b).rsample().square().mean(),
    "StudentT": lambda a, b, y: -D.StudentT(b + 2, a, b).log_prob(y).mean(),
    "Gamma": lambda a, b, y: D.Gamma(b, a.exp()).rsample().log().mean() - D.Gamma(b, b).log_prob(y.exp()).mean(),
    "Beta": lambda a, b, y: D.Beta(a.exp(), b).rsample().mean() - D.Beta(a.exp(), b).log_prob(y.sigmoid()).mean(),
    "Dirichlet": lambda a, b, y: D.Dirichlet(b).rsample().square().sum() + D.Dirichlet(b).entropy().mean(),
    "Poisson": lambda a, b, y: -D.Poisson(b).log_prob(y.abs().floor()).mean(),
    "negative binomial": lambda a, b, y: -D.NegativeBinomial(b, logits=a).log_prob(y.abs().floor()).mean(),
    "Bernoulli": lambda a, b, y: -D.Bernoulli(logits=a).log_prob((y > 0).double()).mean(),
    "Categorical": lambda a, b, y: -D.Categorical(logits=a).log_prob(torch.tensor([0, 1, 2, 3, 0])).mean(),
    "REINFORCE": lambda a, b, y: _reinforce(D.Categorical(logits=a), y),
    "one-hot, straight through": lambda a, b, y: (D.OneHotCategoricalStraightThrough(logits=a).rsample() * y).mean(),
    "relaxed one-hot": lambda a, b, y: (
        D.RelaxedOneHotCategorical(torch.tensor(0.5).double(), logits=a).rsample() * y
    ).mean(),
    "relaxed Bernoulli": lambda a, b, y: (
        D.RelaxedBernoulli(torch.tensor(0.5).double(), logits=a).rsample() * y
    ).mean(),
    "Gumbel": lambda a, b, y: D.Gumbel(a, b).rsample().sin().mean(),
    "Weibull": lambda a, b, y: D.Weibull(b, a.exp()).rsample().mean() - D.Weibull(b, b).log_prob(y.exp()).mean(),
    "Kumaraswamy": lambda a, b, y: D.Kumaraswamy(b, a.exp()).rsample().mean(),
    "log-normal": lambda a, b, y: -D.LogNormal(a, b).log_prob(y.exp()).mean(),
    "half-normal": lambda a, b, y: -D.HalfNormal(b).log_prob(y.abs()).mean(),
    "Cauchy": lambda a, b, y: -D.Cauchy(a, b).log_prob(y).mean(),
    "Pareto": lambda a, b, y: -D.Pareto(b, b + 1).log_prob(y.exp() + b.detach() + 1).mean(),
    "uniform": lambda a, b, y: D.Uniform(a, a + b).rsample().square().mean(),
    "von Mises": lambda a, b, y: -D.VonMises(a, b).log_prob(y).mean(),
    "continuous Bernoulli": lambda a, b, y: -D.ContinuousBernoulli(logits=a).log_prob(y.sigmoid()).mean(),
    "Chi2": lambda a, b, y: -D.Chi2(b).log_prob(y.exp()).mean(),
    "Fisher-Snedecor": lambda a, b, y: -D.FisherSnedecor(b, b + 1).log_prob(y.exp()).mean(),
    "multivariate normal": lambda a, b, y: -D.MultivariateNormal(a, torch.diag_embed(b)).log_prob(y).mean(),
    "multivariate normal, precision": lambda a, b, y: (
        -D.MultivariateNormal(a, precision_matrix=torch.diag_embed(b)).log_prob(y).mean()
    ),
    "low-rank normal": lambda a, b, y: -D.LowRankMultivariateNormal(a, a[..., None], b).log_prob(y).mean(),
    "Wishart": lambda a, b, y: (
        -D.Wishart(b.sum() + 5, torch.diag(b[0])).log_prob(torch.eye(4).double() + y[:4].T @ y[:4])
    ),
    "LKJ": lambda a, b, y: -D.LKJCholesky(3, b.mean()).log_prob(torch.linalg.cholesky(torch.eye(3).double())),
    "tanh-squashed": lambda a, b, y: _squashed(a, b),
    "transformed": lambda a, b, y: (
        -D.TransformedDistribution(D.Normal(a, b), [D.ExpTransform(), D.AffineTransform(1.0, 2.0)])
        .log_prob(y.exp() * 2 + 1)
        .mean()
    ),
    "stick breaking": lambda a, b, y: D.StickBreakingTransform()(a).square().sum(),
    "correlation matrix": lambda a, b, y: D.CorrCholeskyTransform()(a[:, :3]).sum(),
    "multinomial": lambda a, b, y: -D.Multinomial(4, logits=a).log_prob(torch.ones_like(a)).mean(),
    "KL of gammas": lambda a, b, y: D.kl_divergence(D.Gamma(b, b), D.Gamma(a.exp(), b)).mean(),
    "KL of betas": lambda a, b, y: D.kl_divergence(D.Beta(b, b + 1), D.Beta(a.exp(), b)).mean(),
}


def _relaxed(kind: Any, a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (kind(torch.tensor(0.5, dtype=a.dtype), logits=a).rsample() * y).mean()


def _precision(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -D.MultivariateNormal(a, precision_matrix=torch.diag_embed(b)).log_prob(y).mean()


def _transformed(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    steps = [D.ExpTransform(), D.AffineTransform(1.0, 2.0)]
    return -D.TransformedDistribution(D.Normal(a, b), steps).log_prob(y.exp() * 2 + 1).mean()


def _loss(name: str) -> Case:
    return Case(_Net(LOSSES[name]).double(), (image(5, 3), image(5, 4)), loss=lambda x: x)


def _reinforce(policy: D.Categorical, reward: torch.Tensor) -> torch.Tensor:
    action = policy.sample()
    return -(policy.log_prob(action) * reward[:, 0]).mean() - 0.1 * policy.entropy().mean()


def _squashed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    policy = D.TransformedDistribution(D.Normal(a, b), [D.TanhTransform(cache_size=1)])
    action = policy.rsample()
    return (policy.log_prob(action).sum(-1) - action.square().sum(-1)).mean()


MODELS: dict[str, Callable[[], Case]] = {
    **{
        name: lambda name=name: Case(_Net(LOSSES[name]).double(), (image(5, 3), image(5, 4)), loss=lambda x: x)
        for name in LOSSES
    },
    "variational autoencoder": lambda: Case(_Autoencoder().double(), (image(5, 6),), loss=lambda x: x),
    "PPO": _policy,
    "mixture of Gaussians": lambda: Case(_Mixture().double(), (image(9, 2),), loss=lambda x: x),
    "Bayes by backprop": lambda: Case(_Bayesian().double(), (image(5, 3), image(5, 4)), loss=lambda x: x),
    "normalising flow": lambda: Case(_RealNVP().double(), (image(5, 4),), loss=lambda x: x),
}

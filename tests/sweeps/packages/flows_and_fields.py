"""Normalising flows, spiking networks, neural operators, equivariant networks and stochastic equations of packages."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from .case import Case, image, in_double


class Calls(nn.Module):
    """``f(parts, *args)``: what one writes around a part of a package."""

    def __init__(self, f: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.f = nn.ModuleList(parts), f

    def forward(self, *args: Any) -> Any:
        return self.f(*self.parts, *args)


def _called(f: Callable[..., Any], *parts: nn.Module, args: tuple[Any, ...] | None = None) -> Case:
    return Case(Calls(f, *parts).double().train(), args or (image(6, 3),), loss=lambda out: out.mean())


def _zuko(name: str, *args: Any, **options: Any) -> Case:
    flow = getattr(import_module("zuko.flows"), name)(*(args or (3,)), **({"context": 2} | options))
    return _called(lambda f, x, c: -f(c).log_prob(x), flow, args=(image(6, 3) * 0.5, image(6, 2)))


SMALL = {"hidden_features": (8, 8), "transforms": 2}
ZUKO: dict[str, Callable[[], Case]] = {
    "MAF": lambda: _zuko("MAF", **SMALL),
    "NSF": lambda: _zuko("NSF", **SMALL, bins=4),
    "NCSF": lambda: _zuko("NCSF", **SMALL, bins=4),
    "NICE": lambda: _zuko("NICE", **SMALL),
    "NAF": lambda: _zuko("NAF", **SMALL, network={"hidden_features": (8,)}),
    "UNAF": lambda: _zuko("UNAF", **SMALL, network={"hidden_features": (8,)}),
    "SOSPF": lambda: _zuko("SOSPF", **SMALL, degree=2, polynomials=2),
    "BPF": lambda: _zuko("BPF", **SMALL, degree=4),
    "GF": lambda: _zuko("GF", **SMALL, components=3),
    "CNF": lambda: _zuko("CNF", hidden_features=(8,), exact=True),
    "CNF, estimated trace": lambda: _zuko("CNF", hidden_features=(8,), exact=False),
    "GMM": lambda: _zuko("GMM", components=3, hidden_features=(8,)),
    "NSF, sampled": lambda: _called(
        lambda f, c: f(c).rsample((4,)).square(),
        import_module("zuko.flows").NSF(3, context=2, bins=4, **SMALL),
        args=(image(6, 2),),
    ),
}


def _nflows(make: Callable[[Any, Any], Any]) -> Case:
    from nflows import distributions, flows, transforms
    from nflows import nn as networks

    transform = make(transforms, networks)
    flow = flows.Flow(transform, distributions.StandardNormal([4]))
    return _called(lambda f, x: -f.log_prob(x), flow, args=(image(6, 4) * 0.5,))


def _coupled(name: str, **options: Any) -> Callable[[Any, Any], Any]:
    def make(transforms: Any, networks: Any) -> Any:
        net = lambda a, b: networks.nets.ResidualNet(a, b, hidden_features=8, num_blocks=1)  # noqa: E731
        mask = torch.tensor([1, 0, 1, 0])
        parts = [getattr(transforms, name)(mask=m, transform_net_create_fn=net, **options) for m in (mask, 1 - mask)]
        return transforms.CompositeTransform([parts[0], transforms.RandomPermutation(4), parts[1]])

    return make


TAILS = {"num_bins": 4, "tails": "linear", "tail_bound": 3.0}
NFLOWS: dict[str, Callable[[], Case]] = {
    "affine coupling": lambda: _nflows(_coupled("AffineCouplingTransform")),
    "rational quadratic": lambda: _nflows(_coupled("PiecewiseRationalQuadraticCouplingTransform", **TAILS)),
    "quadratic": lambda: _nflows(_coupled("PiecewiseQuadraticCouplingTransform", **TAILS)),
    "cubic": lambda: _nflows(_coupled("PiecewiseCubicCouplingTransform", **TAILS)),
    "linear": lambda: _nflows(_coupled("PiecewiseLinearCouplingTransform", **TAILS)),
    "masked autoregressive": lambda: _nflows(
        lambda t, n: t.MaskedAffineAutoregressiveTransform(4, hidden_features=8, num_blocks=1)
    ),
    "umnn": lambda: _nflows(
        lambda t, n: t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            4, 8, num_blocks=1, use_batch_norm=True, **TAILS
        )
    ),
    "LU and batch norm": lambda: _nflows(
        lambda t, n: t.CompositeTransform([t.LULinear(4), t.BatchNorm(4), t.QRLinear(4, 2), t.SVDLinear(4, 2)])
    ),
    "ActNorm and Householder": lambda: _nflows(
        lambda t, n: t.CompositeTransform([t.ActNorm(4), t.HouseholderSequence(4, 3), t.LeakyReLU(), t.Sigmoid()])
    ),
}


def _normflows(make: Callable[[Any], list[Any]]) -> Case:
    import normflows as nf

    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(4), make(nf))
    return _called(lambda f, x: f.forward_kld(x), flow, args=(image(6, 4) * 0.5,))


NORMFLOWS: dict[str, Callable[[], Case]] = {
    "RealNVP": lambda: _normflows(
        lambda nf: [
            nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 8, 4], init_zeros=False)),
            nf.flows.Permute(4, mode="swap"),
            nf.flows.ActNorm(4),
        ]
    ),
    "residual": lambda: _normflows(
        lambda nf: [nf.flows.Residual(nf.nets.LipschitzMLP([4, 8, 4], init_zeros=False, lipschitz_const=0.9))]
    ),
    "autoregressive spline": lambda: _normflows(
        lambda nf: [nf.flows.AutoregressiveRationalQuadraticSpline(4, 1, 8), nf.flows.LULinearPermute(4)]
    ),
    "planar, reversed": lambda: _called(
        lambda f, x: f.reverse_kld(5).reshape(1) + 0 * x.sum(),
        (
            lambda nf: nf.NormalizingFlow(
                nf.distributions.DiagGaussian(2),
                [nf.flows.Planar((2,)), nf.flows.Radial((2,))],
                p=nf.distributions.TwoMoons(),
            )
        )(import_module("normflows")),
    ),
}


def _spikes(make: Callable[[Any], Any]) -> Case:
    """Twelve steps of a current through a layer of neurons, which keep their state themselves."""
    neuron = make(import_module("snntorch"))

    def run(linear: nn.Module, neuron: Any, out: nn.Module, x: torch.Tensor) -> torch.Tensor:
        total = 0
        for step in range(12):
            total = total + out(neuron(linear(x[step])))
        type(neuron).reset_hidden()
        return total.square()

    return _called(run, nn.Linear(3, 6), neuron, nn.Linear(6, 2), args=(image(12, 4, 3) + 0.5,))


def _by_hand() -> Case:
    """The same with the state in the program's hands."""
    neuron = import_module("snntorch").Leaky(torch.tensor(0.9), learn_beta=True, learn_threshold=True)

    def run(linear: nn.Module, neuron: Any, out: nn.Module, x: torch.Tensor) -> torch.Tensor:
        membrane, spikes = neuron.init_leaky(), []
        for step in range(12):
            spike, membrane = neuron(linear(x[step]), membrane)
            spikes.append(out(spike))
        return torch.stack(spikes).sum(0).square() + membrane.mean()

    return _called(run, nn.Linear(3, 6), neuron, nn.Linear(6, 2), args=(image(12, 4, 3) + 0.5,))


def _neuron(name: str, *args: Any, surrogate: str = "", **options: Any) -> Callable[[], Case]:
    def make(package: Any) -> Any:
        given = {"spike_grad": getattr(import_module("snntorch.surrogate"), surrogate)()} if surrogate else {}
        return getattr(package, name)(*args, init_hidden=True, **given, **options)

    return lambda: in_double(lambda: _spikes(make))


SNNTORCH: dict[str, Callable[[], Case]] = {
    "leaky": _neuron("Leaky", 0.9, reset_mechanism="zero"),
    "leaky, learned": lambda: in_double(_by_hand),
    "synaptic": _neuron("Synaptic", 0.8, 0.9),
    "Lapicque": _neuron("Lapicque", beta=0.9),
    "alpha": _neuron("Alpha", 0.9, 0.8),
    "recurrent": _neuron("RLeaky", 0.9, linear_features=6),
    "recurrent synaptic": _neuron("RSynaptic", 0.8, 0.9, linear_features=6),
    "SLSTM": _neuron("SLSTM", 6, 6),
    "fast sigmoid": _neuron("Leaky", 0.9, surrogate="fast_sigmoid"),
    "triangular": _neuron("Leaky", 0.9, surrogate="triangular"),
}


def _jelly(make: Callable[[Any], Any], reset: bool = True) -> Case:
    neurons = import_module("spikingjelly.activation_based.neuron")
    functional = import_module("spikingjelly.activation_based.functional")

    def run(linear: nn.Module, neuron: nn.Module, out: nn.Module, x: torch.Tensor) -> torch.Tensor:
        total = 0
        for step in range(6):
            total = total + out(neuron(linear(x[step])))
        functional.reset_net(neuron)
        return total.square()

    return _called(run, nn.Linear(3, 6), make(neurons), nn.Linear(6, 2), args=(image(6, 4, 3) + 0.5,))


SPIKINGJELLY: dict[str, Callable[[], Case]] = {
    "IF": lambda: _jelly(lambda n: n.IFNode()),
    "LIF": lambda: _jelly(lambda n: n.LIFNode(tau=1.5, detach_reset=True)),
    "parametric LIF": lambda: _jelly(lambda n: n.ParametricLIFNode()),
    "quadratic IF": lambda: _jelly(lambda n: n.QIFNode()),
    "exponential IF": lambda: _jelly(lambda n: n.EIFNode()),
    "Izhikevich": lambda: _jelly(lambda n: n.IzhikevichNode()),
    "gated LIF": lambda: _jelly(lambda n: n.GatedLIFNode(T=6, inplane=None)),
    "k-LIF": lambda: _jelly(lambda n: n.KLIFNode()),
}


def _operator(name: str, **options: Any) -> Case:
    models = import_module("neuralop.models")
    return Case(
        getattr(models, name)(**({"in_channels": 2, "out_channels": 1, "hidden_channels": 8} | options)).double(),
        (image(2, 2, 16, 16),),
    )


NEURALOP: dict[str, Callable[[], Case]] = {
    "FNO": lambda: _operator("FNO", n_modes=(4, 4), n_layers=2),
    "TFNO, Tucker": lambda: _operator("TFNO", n_modes=(4, 4), n_layers=2, factorization="tucker", rank=0.3),
    "TFNO, CP": lambda: _operator(
        "TFNO", n_modes=(4, 4), n_layers=2, factorization="cp", implementation="factorized", rank=0.3
    ),
    "SFNO": lambda: _operator("SFNO", n_modes=(4, 4), n_layers=2),
    "UNO": lambda: _operator(
        "UNO",
        n_layers=3,
        uno_out_channels=[4, 8, 4],
        uno_n_modes=[[4, 4]] * 3,
        uno_scalings=[[1, 1], [0.5, 0.5], [2, 2]],
    ),
}


def _e3nn(kind: str) -> Case:
    o3, parts = import_module("e3nn.o3"), import_module("e3nn.nn")
    irreps, edges = o3.Irreps("2x0e + 2x1o"), o3.Irreps.spherical_harmonics(2)

    if kind == "convolution":
        product = o3.FullyConnectedTensorProduct(irreps, edges, irreps, shared_weights=False)
        radial = parts.FullyConnectedNet([4, 8, product.weight_numel], torch.nn.functional.silu)
        linear = o3.Linear(irreps, irreps)

        def f(product: Any, radial: Any, linear: Any, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            source, target = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 3, 0, 2])
            way = at[target] - at[source]
            harmonics = o3.spherical_harmonics(edges, way, normalize=True, normalization="component")
            lengths = way.norm(dim=1, keepdim=True) - torch.linspace(0, 2, 4)
            messages = product(linear(x)[source], harmonics, radial((-lengths.square()).exp()))
            return torch.zeros_like(x).index_add(0, target, messages).square()

        return _called(f, product, radial, linear, args=(image(4, irreps.dim), image(4, 3)))
    if kind == "gate":
        gate = parts.Gate("4x0e", [torch.tanh], "2x0e", [torch.sigmoid], "2x1o")
        linear = o3.Linear(irreps, gate.irreps_in)
        return _called(lambda linear, gate, x: gate(linear(x)).square(), linear, gate, args=(image(4, irreps.dim),))
    if kind == "batch norm":
        return _called(
            lambda a, b, x: b(a(x)).square(),
            o3.Linear(irreps, irreps),
            parts.BatchNorm(irreps),
            args=(image(4, irreps.dim),),
        )
    if kind == "sphere":
        act = parts.S2Activation(edges, torch.tanh, 8)
        return _called(lambda a, b, x: b(a(x)).square(), o3.Linear(edges, edges), act, args=(image(4, edges.dim),))
    square = o3.TensorSquare(irreps)
    return _called(lambda a, b, x: b(a(x)).square(), o3.Linear(irreps, irreps), square, args=(image(4, irreps.dim),))


E3NN: dict[str, Callable[[], Case]] = {
    kind: lambda kind=kind: _e3nn(kind) for kind in ("convolution", "gate", "batch norm", "sphere", "square")
}


def _sde(method: str, kind: str, noise: str = "diagonal", adjoint: bool = False) -> Case:
    import torchsde

    class Equation(nn.Module):
        noise_type, sde_type = noise, kind

        def __init__(self) -> None:
            super().__init__()
            self.drift, self.spread = nn.Linear(3, 3), nn.Linear(3, 3)

        def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.drift(y).tanh() - y

        def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.spread(y).sigmoid()

    solve = torchsde.sdeint_adjoint if adjoint else torchsde.sdeint

    def run(equation: nn.Module, y: torch.Tensor) -> torch.Tensor:
        motion = torchsde.BrownianInterval(0.0, 0.5, size=y.shape, dtype=y.dtype, entropy=3)
        return solve(equation, y, torch.linspace(0, 0.5, 3), method=method, dt=0.1, bm=motion)[-1].square()

    return _called(run, Equation(), args=(image(4, 3),))


TORCHSDE: dict[str, Callable[[], Case]] = {
    "Euler": lambda: _sde("euler", "ito"),
    "Milstein": lambda: _sde("milstein", "ito"),
    "Heun": lambda: _sde("heun", "stratonovich"),
    "midpoint": lambda: _sde("midpoint", "stratonovich"),
    "reversible Heun": lambda: _sde("reversible_heun", "stratonovich"),
    "Euler, adjoint": lambda: _sde("euler", "ito", adjoint=True),
}


def _cde() -> Case:
    import torchcde

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 12)

        def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return self.linear(z).tanh().view(*z.shape[:-1], 4, 3)

    def run(field: nn.Module, start: nn.Module, x: torch.Tensor) -> torch.Tensor:
        path = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(x))
        out = torchcde.cdeint(
            path, field, start(path.evaluate(path.interval[0])), path.interval, adjoint=False, method="rk4"
        )
        return out[:, -1].square()

    return _called(run, Field(), nn.Linear(3, 4), args=(image(2, 5, 3),))


TORCHCDE: dict[str, Callable[[], Case]] = {"neural CDE": _cde}


def _ncps(name: str, **options: Any) -> Case:
    layers = import_module("ncps.torch")
    return Case(getattr(layers, name)(3, 6, batch_first=True, **options).double(), (image(2, 5, 3),))


NCPS: dict[str, Callable[[], Case]] = {
    "LTC": lambda: _ncps("LTC"),
    "CfC": lambda: _ncps("CfC"),
    "CfC, no gate": lambda: _ncps("CfC", mode="no_gate"),
}


def _geotorch(name: str) -> Case:
    import geotorch

    layer = nn.Linear(4, 4).double()
    getattr(geotorch, name)(*((layer, "weight", 2) if "rank" in name else (layer, "weight")))
    return Case(nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2)).double(), (image(3, 4),))


GEOTORCH: dict[str, Callable[[], Case]] = {
    name: lambda name=name: _geotorch(name)
    for name in (
        "orthogonal",
        "almost_orthogonal",
        "low_rank",
        "fixed_rank",
        "skew",
        "symmetric",
        "sphere",
        "positive_definite",
        "sln",
        "grassmannian",
    )
}


def _egnn() -> Case:
    from egnn_pytorch import EGNN_Network

    net = EGNN_Network(
        num_tokens=5, dim=8, depth=2, num_nearest_neighbors=3, norm_coors=True, coor_weights_clamp_value=2.0
    )
    return Case(net.double(), (torch.randint(0, 5, (1, 6)), image(1, 6, 3)), {"mask": torch.ones(1, 6).bool()})


EGNN: dict[str, Callable[[], Case]] = {"network": _egnn}


def _se3() -> Case:
    from se3_transformer_pytorch import SE3Transformer

    net = SE3Transformer(dim=8, heads=2, depth=1, dim_head=4, num_degrees=2, valid_radius=10, num_neighbors=3)
    return Case(net.double(), (image(1, 6, 8), image(1, 6, 3), torch.ones(1, 6).bool()), {"return_type": 0})


SE3: dict[str, Callable[[], Case]] = {"transformer": _se3}


def _ani() -> Case:
    """Forces as gradients of the energy, in the loss."""
    import torchani

    model = torchani.arch.simple_ani(("H", "C"), lot="wb97x-631gd") if hasattr(torchani.arch, "simple_ani") else None

    def run(model: Any, species: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        at = at.clone().requires_grad_()
        energy = model((species, at)).energies
        (force,) = torch.autograd.grad(energy.sum(), at, create_graph=True)
        return energy.square().mean() * 1e-4 + force.square().mean()

    return _called(run, model, args=(torch.tensor([[1, 6, 1, 1]]), image(1, 4, 3) * 1.5))


TORCHANI: dict[str, Callable[[], Case]] = {"energies and forces": _ani}


def _kan() -> Case:
    kan = import_module("kan")
    model = kan.KAN(width=[2, 3, 1], grid=3, k=3, seed=0, auto_save=False, save_act=False)
    return Case(model.double(), (image(5, 2) * 0.5,))


PYKAN: dict[str, Callable[[], Case]] = {"KAN": _kan}


def _chains(name: str) -> Case:
    import torch_struct

    shape = {"LinearChainCRF": (2, 5, 3, 3), "DependencyCRF": (2, 5, 5), "SemiMarkovCRF": (2, 5, 2, 3, 3)}[name]

    def run(score: nn.Module, x: torch.Tensor) -> torch.Tensor:
        crf = getattr(torch_struct, name)(score(x))
        return crf.partition + crf.marginals.square().sum() + crf.entropy

    return _called(run, nn.Linear(shape[-1], shape[-1]), args=(image(*shape),))


STRUCT: dict[str, Callable[[], Case]] = {
    name: lambda name=name: _chains(name) for name in ("LinearChainCRF", "DependencyCRF", "SemiMarkovCRF")
}


def _geoopt() -> Case:
    import geoopt

    class Hyperbolic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ball = geoopt.PoincareBall(c=1.0, learnable=True)
            self.at = geoopt.ManifoldParameter(torch.rand(4, 3) * 0.2, manifold=self.ball)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            there = self.ball.expmap0(x * 0.1)
            return self.ball.dist(self.ball.mobius_add(there, self.at), self.at.flip(0))

    return Case(Hyperbolic().double(), (image(4, 3),))


GEOOPT: dict[str, Callable[[], Case]] = {"Poincare ball": _geoopt}

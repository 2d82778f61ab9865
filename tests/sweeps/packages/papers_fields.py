"""Networks of physics, graphics and geometry, small, as their papers' repositories write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, image


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class Radiance(nn.Module):
    """NeRF: coarse samples along rays, fine ones by inverse transform sampling, volume rendering of both."""

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.bands = 2.0 ** torch.arange(bands)
        self.coarse, self.fine = (mlp(3 + 6 * bands, 16, 4, activation=nn.ReLU) for _ in range(2))

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x] + [f(x * band) for band in self.bands for f in (torch.sin, torch.cos)], -1)

    def render(self, field: nn.Module, origins: Tensor, directions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None] + directions[:, None] * z[..., None]
        raw = field(self.encode(points))
        dists = z[..., 1:] - z[..., :-1]
        dists = torch.cat([dists, torch.tensor([1e10], dtype=z.dtype).expand(dists[..., :1].shape)], -1)
        dists = dists * torch.norm(directions[..., None, :], dim=-1)
        alpha = 1.0 - torch.exp(-F.relu(raw[..., 3] + 0.1 * torch.randn(raw[..., 3].shape, dtype=z.dtype)) * dists)
        through = torch.cumprod(torch.cat([torch.ones((alpha.shape[0], 1)), 1.0 - alpha + 1e-10], -1), -1)[:, :-1]
        weights = alpha * through
        return (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(-2), weights

    def forward(self, origins: Tensor, directions: Tensor, colours: Tensor) -> Tensor:
        z = torch.linspace(2.0, 6.0, 8, dtype=origins.dtype).expand(origins.shape[0], 8)
        mids = 0.5 * (z[..., 1:] + z[..., :-1])
        upper, lower = torch.cat([mids, z[..., -1:]], -1), torch.cat([z[..., :1], mids], -1)
        z = lower + (upper - lower) * torch.rand(z.shape, dtype=z.dtype)
        rough, weights = self.render(self.coarse, origins, directions, z)
        pdf = weights[..., 1:-1] + 1e-5
        cdf = torch.cumsum(pdf / pdf.sum(-1, keepdim=True), -1)
        cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], -1)
        u = torch.rand([*cdf.shape[:-1], 6], dtype=z.dtype).contiguous()
        index = torch.searchsorted(cdf, u, right=True)
        below, above = torch.max(torch.zeros_like(index), index - 1), (index).clamp(max=cdf.shape[-1] - 1)
        pairs = torch.stack([below, above], -1)
        shape = [pairs.shape[0], pairs.shape[1], cdf.shape[-1]]
        at = torch.gather(cdf.unsqueeze(1).expand(shape), 2, pairs)
        bins = torch.gather(mids.unsqueeze(1).expand(shape), 2, pairs)
        width = at[..., 1] - at[..., 0]
        width = torch.where(width < 1e-5, torch.ones_like(width), width)
        fine = (bins[..., 0] + (u - at[..., 0]) / width * (bins[..., 1] - bins[..., 0])).detach()
        z, _ = torch.sort(torch.cat([z, fine], -1), -1)
        sharp, _ = self.render(self.fine, origins, directions, z)
        return ((rough - colours) ** 2).mean() + ((sharp - colours) ** 2).mean()


class Splats(nn.Module):
    """Gaussian splatting in two dimensions: covariances from scales and turns, sorted by depth, blended."""

    def __init__(self, count: int = 7) -> None:
        super().__init__()
        self.means, self.depths = nn.Parameter(torch.rand(count, 2)), nn.Parameter(torch.rand(count))
        self.scales, self.turns = nn.Parameter(torch.randn(count, 2) - 1.5), nn.Parameter(torch.rand(count))
        self.colours, self.opacity = nn.Parameter(torch.rand(count, 3)), nn.Parameter(torch.zeros(count))

    def forward(self, target: Tensor) -> Tensor:
        height, width, _ = target.shape
        grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"), -1)
        c, s = self.turns.cos(), self.turns.sin()
        turn = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
        m = turn @ torch.diag_embed(self.scales.exp())
        inverse = torch.linalg.inv(m @ m.mT + 1e-4 * torch.eye(2))
        order = self.depths.argsort()
        d = grid.view(-1, 1, 2).to(target.dtype) - self.means[order]
        power = -0.5 * torch.einsum("pgi,gij,pgj->pg", d, inverse[order], d)
        alpha = (self.opacity[order].sigmoid() * power.exp()).clamp(max=0.99)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        through = torch.cumprod(F.pad(1 - alpha, (1, -1), value=1.0), -1)
        seen = (through * alpha) @ self.colours[order]
        return (seen - target.view(-1, 3)).abs().mean()


class Hamiltonian(nn.Module):
    """A Hamiltonian network: the flow is a gradient that the forward pass takes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp(4, 16, 1)
        self.register_buffer("symplectic", torch.cat([torch.eye(4)[2:], -torch.eye(4)[:2]]))
        for layer in self.energy:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        for _ in range(3):
            flow = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]
            x = x + 0.1 * flow @ self.symplectic.t()
        return x


class Lagrangian(nn.Module):
    """Accelerations from a learned Lagrangian: its Hessian and mixed derivatives, solved at each state."""

    def __init__(self) -> None:
        super().__init__()
        self.lagrangian = mlp(4, 8, 8, 1, activation=nn.Softplus)

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        def energy(q: Tensor, v: Tensor) -> Tensor:
            return self.lagrangian(torch.cat([q, v])).squeeze() + 0.5 * (v @ v)

        def accelerate(q: Tensor, v: Tensor) -> Tensor:
            mass = torch.func.hessian(energy, 1)(q, v)
            mixed = torch.func.jacrev(torch.func.grad(energy, 1), 0)(q, v)
            return torch.linalg.pinv(mass) @ (torch.func.grad(energy)(q, v) - mixed @ v)

        return torch.func.vmap(accelerate)(q, v)


class Forces(nn.Module):
    """SchNet: filters by distance, energies summed per molecule, forces by create_graph."""

    def __init__(self, width: int = 8, basis: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.register_buffer("offsets", torch.linspace(0, 4, basis))
        self.filters = nn.ModuleList([mlp(basis, width, width, activation=nn.Softplus) for _ in range(2)])
        self.mixes = nn.ModuleList([mlp(width, width, width, activation=nn.Softplus) for _ in range(2)])
        self.out = nn.Linear(width, 1)

    def forward(self, z: Tensor, positions: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        positions.requires_grad_(True)
        near = (torch.cdist(positions.detach(), positions.detach()) < 4) & (batch[:, None] == batch)
        near.fill_diagonal_(False)
        i, j = near.nonzero().t()
        distance = (positions[i] - positions[j]).norm(dim=-1)
        smooth = torch.exp(-1.5 * (distance[:, None] - self.offsets) ** 2)
        envelope = 0.5 * (torch.cos(distance * math.pi / 4) + 1)
        x = self.embed(z)
        for filters, mix in zip(self.filters, self.mixes, strict=True):
            messages = x[j] * filters(smooth) * envelope[:, None]
            x = x + mix(torch.zeros_like(x).index_add_(0, i, messages))
        energy = torch.zeros(int(batch.max()) + 1, dtype=x.dtype).scatter_add(0, batch, self.out(x).squeeze(-1))
        forces = -torch.autograd.grad(energy.sum(), positions, create_graph=self.training)[0]
        return energy, forces


class Equivariant(nn.Module):
    """Tensor products of scalars, vectors and symmetric matrices, and coordinates that move (EGNN, TFN)."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.edge, self.move, self.node = mlp(2 * width + 1, 8, 8), mlp(8, 1), mlp(width + 8 + 1, 8, width)
        self.paths = nn.Parameter(torch.randn(3, 8))
        antisymmetric = torch.zeros(3, 3, 3)
        for a, b, c in [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:
            antisymmetric[a, b, c], antisymmetric[a, c, b] = 1, -1
        self.register_buffer("cross", antisymmetric)

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = h.size(0)
        i, j = torch.where(~torch.eye(n, dtype=torch.bool))
        r = x[i] - x[j]
        m = self.edge(torch.cat([h[i], h[j], (r**2).sum(-1, keepdim=True)], -1))
        unit = F.normalize(r, dim=-1)
        first = torch.zeros(n, 8, 3, dtype=x.dtype).index_add(0, i, m[..., None] * unit[:, None])
        second = unit[:, :, None] * unit[:, None] - torch.eye(3) / 3
        second = torch.zeros(n, 8, 3, 3, dtype=x.dtype).index_add(0, i, m[..., None, None] * second[:, None])
        bent = torch.einsum("nkab,nkb->nka", second, first)
        turned = torch.einsum("abc,nkb,nkc->nka", self.cross, first, bent)
        invariant = torch.stack([(first * bent).sum(-1), (second**2).sum((-1, -2)), (turned * first).sum(-1)])
        x = x + torch.zeros_like(x).scatter_add_(0, i[:, None].expand(-1, 3), r * self.move(m)) / (n - 1)
        scalars = torch.einsum("pk,pnk->n", self.paths, invariant)[:, None]
        return h + self.node(torch.cat([h, first.norm(dim=-1), scalars], -1)), x + (self.paths[0] @ turned)


class FixedSteps(nn.Module):
    """A neural ODE with Runge-Kutta steps, whose backward is an adjoint ODE in a Function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.field = mlp(3, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return _Adjoint.apply(x, self.field, 4, *self.field.parameters())


def _runge_kutta(f: Callable[[Tensor], Tensor], x: Tensor, h: float) -> Tensor:
    a = f(x)
    b = f(x + h / 2 * a)
    c = f(x + h / 2 * b)
    return x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, field, steps, *parameters):
        with torch.no_grad():
            states = [x]
            for _ in range(steps):
                states.append(_runge_kutta(field, states[-1], 1 / steps))
        ctx.save_for_backward(*states)
        ctx.field, ctx.steps, ctx.parameters = field, steps, parameters
        return states[-1]

    @staticmethod
    def backward(ctx, adjoint):
        totals = [torch.zeros_like(p) for p in ctx.parameters]
        for state in reversed(ctx.saved_tensors[:-1]):
            with torch.enable_grad():
                state = state.detach().requires_grad_()
                end = _runge_kutta(ctx.field, state, 1 / ctx.steps)
                adjoint, *parts = torch.autograd.grad(end, [state, *ctx.parameters], adjoint)
            for total, part in zip(totals, parts, strict=True):
                total += part
        return adjoint, None, None, *totals


class Physics(nn.Module):
    """A PINN of sines: residual of a heat equation by second derivatives, weights that adapt without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 12), nn.Linear(12, 12), nn.Linear(12, 1)])
        self.rate = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("balance", torch.ones(()))

    def field(self, t: Tensor, x: Tensor) -> Tensor:
        h = torch.stack([t, x], -1)
        for layer in self.layers[:-1]:
            h = torch.sin(3 * layer(h))
        return self.layers[-1](h).squeeze(-1)

    def forward(self, t: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        t.requires_grad_(), x.requires_grad_()
        u = self.field(t, x)
        u_t, u_x = torch.autograd.grad(u, (t, x), torch.ones_like(u), create_graph=True)
        u_xx = torch.autograd.grad(u_x, x, torch.ones_like(u), create_graph=True)[0]
        residual, data = ((u_t - self.rate * u_xx) ** 2).mean(), ((u - seen) ** 2).mean()
        weights = [p for p in self.layers.parameters()]
        large = torch.autograd.grad(residual, weights, retain_graph=True, allow_unused=True)
        small = torch.autograd.grad(data, weights, retain_graph=True)
        with torch.no_grad():
            top = max(g.abs().max() for g in large if g is not None)
            self.balance.mul_(0.9).add_(0.1 * top / torch.cat([g.flatten() for g in small]).abs().mean())
        return residual + self.balance * data


class Operator(nn.Module):
    """DeepONet and a Fourier layer: modes written into a complex tensor of zeros."""

    def __init__(self, width: int = 4, modes: int = 3) -> None:
        super().__init__()
        self.modes = modes
        self.spectral = nn.Parameter(torch.rand(width, width, modes, dtype=torch.cdouble) / width)
        self.lift, self.local = nn.Linear(1, width), nn.Conv1d(width, width, 1)
        self.trunk, self.bias = mlp(1, 8, width), nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        x = self.lift(u.unsqueeze(-1)).mT
        spectrum = torch.fft.rfft(x)
        out = torch.zeros(*x.shape[:2], x.size(-1) // 2 + 1, dtype=torch.cdouble)
        out[:, :, : self.modes] = torch.einsum("bix,iox->box", spectrum[:, :, : self.modes], self.spectral)
        x = F.gelu(torch.fft.irfft(out, n=x.size(-1)) + self.local(x))
        return torch.einsum("bp,np->bn", x.mean(-1), self.trunk(y.unsqueeze(-1))) + self.bias


def _rays(count: int) -> tuple[Tensor, Tensor, Tensor]:
    return image(count, 3), F.normalize(image(count, 3), dim=-1), image(count, 3).sigmoid()


def _loss(output: Tensor) -> Tensor:
    return output


MODELS: dict[str, Callable[[], Case]] = {
    "radiance field": lambda: Case(Radiance().double(), _rays(5), loss=_loss),
    "Gaussian splats": lambda: Case(Splats().double(), (image(6, 6, 3).sigmoid(),), loss=_loss),
    "Hamiltonian": lambda: Case(Hamiltonian().double(), (image(5, 4),)),
    "Lagrangian": lambda: Case(Lagrangian().double(), (image(3, 2), image(3, 2))),
    "forces": lambda: Case(
        Forces().double(), (torch.tensor([6, 1, 1, 8, 1, 1]), image(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    ),
    "equivariant": lambda: Case(Equivariant().double(), (image(5, 6), image(5, 3))),
    "adjoint ODE": lambda: Case(FixedSteps().double(), (image(4, 3),)),
    "heat equation": lambda: Case(Physics().double(), (image(9), image(9), image(9)), loss=_loss),
    "operator": lambda: Case(Operator().double(), (image(3, 10), image(6))),
}

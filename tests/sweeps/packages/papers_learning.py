"""Networks that learn in uncommon ways: by spikes, of few bits, from their own copies; small, as in repositories."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, image
from .papers_fields import mlp


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.zeros_like(x)
        out[x > 0] = 1.0
        return out

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return adjoints[0].clone() / (10 * torch.abs(x) + 1.0) ** 2


class Spiking(nn.Module):
    """Leaky neurons with surrogate gradients, resets, adaptive thresholds, a penalty on how many spikes there are."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(5, 8) * 0.5), nn.Parameter(torch.randn(8, 8) * 0.2)
        self.out, self.decay = nn.Linear(8, 3), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        synapse = membrane = tired = torch.zeros(x.size(0), 8, dtype=x.dtype)
        readout, record = torch.zeros(x.size(0), 3, dtype=x.dtype), []
        beta = torch.sigmoid(self.decay)
        spikes = torch.zeros_like(membrane)
        for t in range(x.size(1)):
            spikes = _Spike.apply(membrane - 1.0 - 0.2 * tired)
            reset = spikes.detach()
            tired = 0.9 * tired + spikes
            synapse = 0.8 * synapse + x[:, t] @ self.w + spikes @ self.v
            membrane = (beta * membrane + synapse) * (1.0 - reset)
            readout = 0.9 * readout + self.out(spikes)
            record.append(spikes)
        record = torch.stack(record, 1)
        return F.cross_entropy(readout, torch.zeros(x.size(0)).long()) + 1e-2 * record.sum((1, 2)).pow(2).mean()


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.bounds = low, high, 1.0 / math.sqrt(x.numel() * high)
        return (x / scale).round().clamp(low, high) * scale

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor | None, ...]:
        (x, scale), (low, high, g) = ctx.saved_tensors, ctx.bounds
        q = x / scale
        below, above = (q < low).to(x.dtype), (q > high).to(x.dtype)
        inside = 1.0 - below - above
        slope = ((below * low + above * high + inside * (-q + q.round())) * adjoints[0] * g).sum().unsqueeze(0)
        return inside * adjoints[0], slope, None, None


class FewBits(nn.Module):
    """Learned step sizes (LSQ), set by the first batch, beside weights of one bit with straight-through gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.weight_step, self.input_step = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.state == 0:
            self.weight_step.data.copy_(2 * self.first.weight.abs().mean() / math.sqrt(7))
            self.input_step.data.copy_(2 * x.abs().mean() / math.sqrt(7))
            self.state.fill_(1)
        w = _Round.apply(self.first.weight, self.weight_step, -8, 7)
        h = F.linear(_Round.apply(x, self.input_step, -8, 7), w, self.first.bias).relu()
        real = self.second.weight - self.second.weight.mean(1, keepdim=True)
        scale = real.abs().mean(1, keepdim=True).detach()
        one = scale * torch.sign(real)
        clipped = torch.clamp(real, -1.0, 1.0)
        return F.linear(h, one.detach() - clipped.detach() + clipped, self.second.bias)


class Experts(nn.Module):
    """Noisy top-k gating with capacity, load and importance losses, tokens sorted to their experts and put back."""

    def __init__(self, width: int = 6, experts: int = 4, k: int = 2) -> None:
        super().__init__()
        self.experts = nn.ModuleList([mlp(width, 8, width, activation=nn.GELU) for _ in range(experts)])
        self.gate, self.noise = (nn.Parameter(0.1 * torch.randn(width, experts)) for _ in range(2))
        self.k = k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        clean = x @ self.gate
        logits = clean + torch.randn_like(clean) * (F.softplus(x @ self.noise) + 1e-2)
        top, at = logits.topk(self.k, 1)
        gates = torch.zeros_like(logits).scatter(1, at, top.softmax(1))
        pairs, order = torch.nonzero(gates).sort(0)
        _, expert = pairs.split(1, dim=1)
        tokens = torch.nonzero(gates)[order[:, 1], 0]
        sizes = (gates > 0).sum(0).tolist()
        chosen = torch.gather(gates[tokens], 1, expert)
        parts = torch.split(x[tokens], sizes)
        out = torch.cat([f(part) for f, part in zip(self.experts, parts, strict=True) if part.shape[0]], 0)
        y = torch.zeros_like(x).index_add(0, tokens, out * chosen)
        importance, load = gates.sum(0), (gates > 0).sum(0).to(x.dtype)
        uneven = importance.var() / (importance.mean() ** 2 + 1e-10) + load.var() / (load.mean() ** 2 + 1e-10)
        return y, uneven


class Hyper(nn.Module):
    """A hypernetwork that makes the weights of small networks, which an inner loop adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(3, 4))
        self.maker = nn.Linear(4, 3 * 5 + 5 + 5 + 1)
        self.rate = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = 0
        for task in range(3):
            w1, b1, w2, b2 = self.maker(self.embed[task]).split([15, 5, 5, 1])
            fast = {"w1": w1.view(5, 3), "b1": b1, "w2": w2.view(1, 5), "b2": b2}

            def run(x: Tensor, fast: dict[str, Tensor]) -> Tensor:
                return F.linear(torch.tanh(F.linear(x, fast["w1"], fast["b1"])), fast["w2"], fast["b2"])

            for _ in range(2):
                inner = F.mse_loss(run(x[task, :3], fast), y[task, :3])
                slopes = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                fast = {k: v - self.rate * g for (k, v), g in zip(fast.items(), slopes, strict=True)}
            total = total + F.mse_loss(run(x[task, 3:], fast), y[task, 3:])
        return total / 3


class Sets(nn.Module):
    """DeepSets and a set transformer's pooling over sets of several sizes; matched to targets by an assignment."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.phi, self.rho = mlp(3, 8, width, activation=nn.ELU), nn.Linear(2 * width, 4 * 2)
        self.seed = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, sets: list[Tensor], targets: Tensor) -> Tensor:
        losses = []
        for x, target in zip(sets, targets, strict=True):
            h = self.phi(x)
            weights = (self.seed[0] @ h.t() / math.sqrt(h.size(1))).softmax(-1)
            guess = self.rho(torch.cat([h.max(0).values, (weights @ h).squeeze(0)])).view(4, 2)
            with torch.no_grad():
                cost = torch.cdist(guess, target, p=1)
                columns = torch.zeros(4, dtype=torch.long)
                free = torch.ones(4, dtype=torch.bool)
                for row in range(4):
                    columns[row] = cost[row].masked_fill(~free, float("inf")).argmin()
                    free[columns[row]] = False
            losses.append(F.l1_loss(guess, target[columns]))
        return sum(losses) / len(losses)


class Contrast(nn.Module):
    """MoCo's queue and slow copy, which the forward pass moves on, and Barlow's cross-correlation."""

    def __init__(self, width: int = 5, queue: int = 8) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, width))
        self.target = copy.deepcopy(self.online)
        for p in self.target.parameters():
            p.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(width, queue), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def follow(self, keys: Tensor) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.data = slow.data * 0.99 + fast.data * 0.01
        at = int(self.pointer)
        self.queue[:, at : at + keys.shape[0]] = keys.T
        self.pointer[0] = (at + keys.shape[0]) % self.queue.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
        q = F.normalize(self.online(a), dim=1)
        with torch.no_grad():
            shuffle = torch.randperm(x.size(0))
            k = F.normalize(self.target(b[shuffle]), dim=1)[torch.argsort(shuffle)]
        positive = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / 0.07
        self.follow(k)
        z = self.online(b)
        c = ((q - q.mean(0)) / q.std(0)).T @ ((z - z.mean(0)) / z.std(0)) / x.size(0)
        off = c.flatten()[:-1].view(c.size(0) - 1, c.size(0) + 1)[:, 1:].flatten()
        barlow = torch.diagonal(c).add_(-1).pow_(2).sum() + 0.005 * off.pow_(2).sum()
        return F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.long)) + 0.1 * barlow


def _loss(output: Tensor) -> Tensor:
    return output


MODELS: dict[str, Callable[[], Case]] = {
    "spikes": lambda: Case(Spiking().double(), (image(3, 6, 5).abs(),), loss=_loss),
    "few bits": lambda: Case(FewBits().double(), (image(6, 4),)),
    "noisy experts": lambda: Case(Experts().double(), (image(9, 6),)),
    "hypernetwork": lambda: Case(Hyper().double(), (image(3, 6, 3), image(3, 6, 1)), loss=_loss),
    "sets": lambda: Case(Sets().double(), ([image(n, 3) for n in (4, 6, 5)], image(3, 4, 2)), loss=_loss),
    "contrast": lambda: Case(Contrast().double(), (image(4, 4),), loss=_loss),
}

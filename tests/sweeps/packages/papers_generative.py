"""Generative networks, small, as their papers' repositories write them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, image
from .papers_fields import mlp


class Coupling(nn.Module):
    """RealNVP: masked affine couplings, batch norm as a flow with statistics of its own, a permutation."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.scales = nn.ModuleList([mlp(width, 8, width) for _ in range(3)])
        self.shifts = nn.ModuleList([mlp(width, 8, width, activation=nn.ReLU) for _ in range(3)])
        masks = torch.stack([(torch.arange(width) + k) % 2 for k in range(3)]).double()
        self.register_buffer("masks", masks)
        self.register_buffer("order", torch.randperm(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        logdet = x.new_zeros(x.size(0))
        for mask, scale, shift in zip(self.masks, self.scales, self.shifts, strict=True):
            held = x * mask
            s = torch.tanh(scale(held)) * (1 - mask)
            x = held + (1 - mask) * (x * s.exp() + shift(held))
            logdet += s.sum(-1)
            mean, variance = x.mean(0), (x - x.mean(0)).pow(2).mean(0) + 1e-5
            self.mean.mul_(0.9).add_(0.1 * mean.data)
            self.variance.mul_(0.9).add_(0.1 * variance.data)
            x = self.gain.exp() * (x - mean) / variance.sqrt()
            logdet = logdet + (self.gain - 0.5 * variance.log()).sum()
            x = x[:, self.order]
        return (0.5 * x.pow(2).sum(-1) + 0.5 * x.size(1) * math.log(2 * math.pi) - logdet).mean()


class Glow(nn.Module):
    """Actnorm that is set by its first batch, invertible 1x1 convolutions by LU, squeezes, split priors."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.bias, self.log_scale = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))
        self.register_buffer("ready", torch.tensor(0, dtype=torch.uint8))
        turn = torch.linalg.qr(torch.randn(channels, channels))[0]
        swap, lower, upper = torch.linalg.lu(turn)
        self.register_buffer("swap", swap)
        self.register_buffer("sign", upper.diagonal().sign().clone())
        self.lower, self.upper = nn.Parameter(lower), nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())
        self.net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        self.prior = nn.Conv2d(2, 4, 3, padding=1)
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).contiguous().view(b, c * 4, h // 2, w // 2)
        if self.ready.item() == 0:
            with torch.no_grad():
                flat = x.permute(1, 0, 2, 3).contiguous().view(x.shape[1], -1)
                self.bias.data.copy_(-flat.mean(1).view(1, -1, 1, 1))
                self.log_scale.data.copy_(-(flat.std(1) + 1e-6).log().view(1, -1, 1, 1))
                self.ready.fill_(1)
        x = (x + self.bias) * self.log_scale.exp()
        pixels = x.size(2) * x.size(3)
        lower = self.lower.tril(-1) + torch.eye(4)
        matrix = self.swap @ lower @ (self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp()))
        x = F.conv2d(x, matrix.unsqueeze(2).unsqueeze(3))
        logdet = pixels * (self.log_scale.sum() + self.log_diagonal.sum())
        held, moved = x.chunk(2, 1)
        log_s, t = self.net(held).chunk(2, 1)
        s = torch.sigmoid(log_s + 2)
        moved = (moved + t) * s
        logdet = logdet + s.log().view(b, -1).sum(1)
        mean, log_std = self.prior(held).chunk(2, 1)
        log_p = -0.5 * math.log(2 * math.pi) - log_std - 0.5 * (moved - mean) ** 2 / (2 * log_std).exp()
        return -(logdet + log_p.sum((1, 2, 3)) - 0.5 * held.pow(2).sum((1, 2, 3))).mean() / (math.log(2) * pixels)


class Codebook(nn.Module):
    """VQ-VAE with a codebook that follows by moving averages, dead codes that are drawn anew, perplexity."""

    def __init__(self, codes: int = 6, width: int = 4) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(8, width, 1))
        self.decode = nn.Sequential(nn.ConvTranspose2d(width, 8, 4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 3, 1))
        self.embedding = nn.Embedding(codes, width)
        self.embedding.weight.requires_grad = False
        self.register_buffer("sizes", torch.zeros(codes))
        self.register_buffer("sums", self.embedding.weight.data.clone())
        self.perplexity = 0.0

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, z.size(-1))
        distances = flat.pow(2).sum(1, keepdim=True) + self.embedding.weight.pow(2).sum(1)
        distances = torch.addmm(distances, flat, self.embedding.weight.t(), beta=1.0, alpha=-2.0)
        index = distances.argmin(1, keepdim=True)
        hot = torch.zeros(index.shape[0], self.sizes.numel(), dtype=x.dtype)
        hot.scatter_(1, index, 1)
        code = (hot @ self.embedding.weight).view(z.shape)
        if self.training:
            self.sizes = self.sizes * 0.9 + 0.1 * hot.sum(0)
            n = self.sizes.sum()
            self.sizes = (self.sizes + 1e-5) / (n + self.sizes.numel() * 1e-5) * n
            self.sums = 0.9 * self.sums + 0.1 * (hot.t() @ flat).detach()
            dead = self.sizes < 0.05
            fresh = flat.detach()[torch.randint(flat.size(0), (int(dead.sum()),))]
            self.embedding.weight.data.copy_(self.sums / self.sizes.unsqueeze(1))
            self.embedding.weight.data[dead] = fresh
        commitment = 0.25 * F.mse_loss(code.detach(), z)
        code = z + (code - z).detach()
        mean = hot.mean(0)
        self.perplexity = torch.exp(-(mean * (mean + 1e-10).log()).sum()).item()
        return F.mse_loss(self.decode(code.permute(0, 3, 1, 2)), x) + commitment


class Denoiser(nn.Module):
    """DDPM: a U-Net with attention and time, schedules as buffers, losses by signal-to-noise, EMA inside."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        betas = torch.linspace(1e-4, 0.02, 10, dtype=torch.float64)
        self.register_buffer("bars", torch.cumprod(1 - betas, 0))
        self.time = mlp(width, width, width, activation=nn.SiLU)
        self.into, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.norm, self.qkv = nn.GroupNorm(2, width), nn.Conv1d(width, 3 * width, 1)
        self.up, self.out = nn.ConvTranspose2d(width, width, 4, 2, 1), nn.Conv2d(2 * width, 3, 3, padding=1)

    def predict(self, x: Tensor, t: Tensor, hint: Tensor) -> Tensor:
        half = self.qkv.in_channels // 2
        angles = t[:, None].double() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))[..., None, None]
        first = F.silu(self.into(x + hint))
        h = F.silu(self.down(first) + time)
        q, k, v = self.qkv(self.norm(h).flatten(2)).chunk(3, 1)
        attention = torch.einsum("bct,bcs->bts", q, k).mul_(q.size(1) ** -0.5).softmax(-1)
        h = h + torch.einsum("bts,bcs->bct", attention, v).view_as(h)
        return self.out(torch.cat([F.dropout2d(self.up(h), 0.1, self.training), first], 1))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(0, len(self.bars), (x.size(0),))
        noise = torch.randn_like(x)
        bar = self.bars.gather(0, t).view(-1, 1, 1, 1)
        noisy = bar.sqrt() * x + (1 - bar).sqrt() * noise
        hint = torch.zeros_like(x)
        if torch.rand(()) < 0.5:
            with torch.no_grad():
                hint = self.predict(noisy, t, hint).detach_()
        error = F.mse_loss(self.predict(noisy, t, hint), noise, reduction="none").flatten(1).mean(1)
        snr = bar.flatten() / (1 - bar.flatten())
        return (error * torch.stack([snr, 5 * torch.ones_like(snr)], 1).min(1)[0] / snr).mean()


class Energy(nn.Module):
    """An energy-based model: negatives by Langevin dynamics from a replay buffer, inside the step."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp(3, 12, 1, activation=nn.SiLU)
        self.register_buffer("replay", torch.rand(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        at = torch.randint(0, 16, (x.size(0),))
        sample = torch.where(torch.rand(x.size(0), 1) < 0.05, torch.rand(x.shape, dtype=x.dtype), self.replay[at])
        for p in self.energy.parameters():
            p.requires_grad_(False)
        sample = sample.clone().requires_grad_(True)
        for _ in range(3):
            gradient = torch.autograd.grad(self.energy(sample).sum(), [sample])[0]
            sample.data += -0.1 * gradient.clamp(-0.03, 0.03) + 0.005 * torch.randn_like(sample)
            sample.data.clamp_(0.0, 1.0)
        for p in self.energy.parameters():
            p.requires_grad_(True)
        sample = sample.detach()
        self.replay[at] = sample
        true, false = self.energy(x), self.energy(sample)
        return (true - false).mean() + 0.1 * (true**2 + false**2).mean()


class Score(nn.Module):
    """Sliced score matching: the trace of a Hessian along random directions."""

    def __init__(self) -> None:
        super().__init__()
        self.log_density = mlp(3, 12, 12, 1, activation=nn.Softplus)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        score = torch.autograd.grad(self.log_density(x).sum(), x, create_graph=True)[0]
        v = torch.randn_like(x).sign()
        bend = torch.autograd.grad((score * v).sum(), x, create_graph=True)[0]
        return ((bend * v).sum(-1) + 0.5 * score.pow(2).sum(-1)).mean()


class Styles(nn.Module):
    """StyleGAN2: modulated convolutions as groups, noise, minibatch deviation, R1 and path lengths, EMA of means."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.map, self.affine = mlp(4, width, width, activation=nn.ReLU), nn.Linear(width, width)
        self.weight, self.noise = nn.Parameter(torch.randn(3, width, 3, 3)), nn.Parameter(torch.zeros(1))
        self.start = nn.Parameter(torch.randn(1, width, 4, 4))
        self.judge = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(24, 1))
        self.register_buffer("length", torch.zeros([]))
        self.register_buffer("average", torch.zeros(width))

    def synthesize(self, w: Tensor) -> Tensor:
        b = w.size(0)
        weight = self.weight.unsqueeze(0) * (self.affine(w).reshape(b, 1, -1, 1, 1) + 1)
        weight = weight * (weight.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt().reshape(b, -1, 1, 1, 1)
        x = self.start.repeat(b, 1, 1, 1).reshape(1, -1, 4, 4)
        x = F.conv2d(x, weight.reshape(-1, *weight.shape[2:]), padding=1, groups=b).reshape(b, 3, 4, 4)
        return x.add_(torch.randn(b, 1, 4, 4, dtype=x.dtype) * self.noise)

    def score(self, x: Tensor) -> Tensor:
        y = x.reshape(2, -1, 1, *x.shape[1:])
        y = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean([2, 3, 4]).reshape(-1, 1, 1, 1)
        return self.judge(torch.cat([x, y.repeat(2, 1, 4, 4)], 1))

    def forward(self, real: Tensor) -> Tensor:
        real = real.detach().requires_grad_(True)
        w = self.map(F.normalize(torch.randn(real.size(0), 4, dtype=real.dtype), dim=1))
        self.average.copy_(w.detach().mean(0).lerp(self.average, 0.995))
        fake = self.synthesize(w)
        judged = self.score(real)
        r1 = torch.autograd.grad(judged.sum(), real, create_graph=True)[0].square().sum([1, 2, 3])
        noise = torch.randn_like(fake) / math.sqrt(16)
        slope = torch.autograd.grad((fake * noise).sum(), w, create_graph=True)[0]
        lengths = slope.square().sum(1).sqrt()
        mean = self.length.lerp(lengths.mean(), 0.01)
        self.length.copy_(mean.detach())
        path = (lengths - mean).square().mean()
        adversarial = F.softplus(self.score(fake)).mean() + F.softplus(-judged).mean()
        return adversarial + 5 * r1.mean() + 2 * path


class Mixtures(nn.Module):
    """A mixture density network over an LSTM (world models), temperatures, samples fed back."""

    def __init__(self, width: int = 8, parts: int = 3) -> None:
        super().__init__()
        self.cell, self.out, self.parts = nn.LSTMCell(2, width), nn.Linear(width, 3 * 2 * parts), parts

    def forward(self, x: Tensor) -> Tensor:
        state, z, total = None, x[:, 0], 0.0
        for t in range(1, x.size(1)):
            state = self.cell(z, state)
            logits, mean, log_std = self.out(state[0]).view(-1, 3, 2, self.parts).unbind(1)
            parts = torch.distributions.MixtureSameFamily(
                torch.distributions.Categorical(logits=logits), torch.distributions.Normal(mean, log_std.exp())
            )
            total = total - parts.log_prob(x[:, t]).sum(-1).mean()
            z = parts.sample() if t % 2 else x[:, t]
        return total


class Maker(nn.Module):
    """A DCGAN step: a frozen, averaged copy of the maker beside it, spectral norm, two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(True), nn.Linear(16, 4), nn.Tanh())
        norm = nn.utils.spectral_norm
        self.judge = nn.Sequential(norm(nn.Linear(4, 8)), nn.LeakyReLU(0.2, inplace=True), norm(nn.Linear(8, 1)))
        self.steady = copy.deepcopy(self.make).requires_grad_(False)

    def forward(self, real: Tensor) -> Tensor:
        with torch.no_grad():
            for p, q in zip(self.steady.parameters(), self.make.parameters(), strict=True):
                p.copy_(p.detach() * 0.9 + q.detach() * 0.1)
        fake = self.make(torch.randn(real.size(0), 3, dtype=real.dtype))
        still = self.steady(torch.randn(real.size(0), 3, dtype=real.dtype))
        yes, no = torch.full((real.size(0), 1), 0.9, dtype=real.dtype), torch.zeros(real.size(0), 1, dtype=real.dtype)
        loss = F.binary_cross_entropy_with_logits
        judged = loss(self.judge(real), yes) + loss(self.judge(fake.detach()), no) + loss(self.judge(still), no)
        self.judge.requires_grad_(False)
        made = loss(self.judge(fake), yes)
        self.judge.requires_grad_(True)
        return judged + made


def _loss(output: Tensor) -> Tensor:
    return output


MODELS: dict[str, Callable[[], Case]] = {
    "RealNVP": lambda: Case(Coupling().double(), (image(6, 4),), loss=_loss),
    "Glow": lambda: Case(Glow().double(), (image(3, 1, 4, 4),), loss=_loss),
    "VQ-VAE": lambda: Case(Codebook().double(), (image(3, 3, 8, 8),), loss=_loss),
    "DDPM": lambda: Case(Denoiser().double(), (image(4, 3, 4, 4),), loss=_loss),
    "energy and Langevin": lambda: Case(Energy().double(), (image(5, 3).sigmoid(),), loss=_loss),
    "sliced scores": lambda: Case(Score().double(), (image(5, 3),), loss=_loss),
    "StyleGAN2": lambda: Case(Styles().double(), (image(4, 3, 4, 4),), loss=_loss),
    "mixture density": lambda: Case(Mixtures().double(), (image(3, 5, 2),), loss=_loss),
    "DCGAN": lambda: Case(Maker().double(), (image(6, 4).tanh(),), loss=_loss),
}

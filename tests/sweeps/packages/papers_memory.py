"""Networks with memories, slots, capsules and trees, small, as their papers' repositories write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, image
from .papers_fields import mlp


class Capsules(nn.Module):
    """Capsules with routing by agreement: predictions detached but in the last round, margin loss, masks by label."""

    def __init__(self, primary: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.routes = nn.Parameter(0.1 * torch.randn(classes, primary, 4, 5))
        self.decode = mlp(classes * 5, 8, 12, activation=nn.ReLU)

    @staticmethod
    def squash(s: Tensor) -> Tensor:
        square = (s**2).sum(-1, keepdim=True)
        return square / (1 + square) * s / (square.sqrt() + 1e-8)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        u = self.squash(x)
        votes = torch.matmul(u[:, None, :, None, :], self.routes[None]).squeeze(-2)
        still = votes.detach()
        b = torch.zeros(*votes.shape[:3], 1, dtype=x.dtype)
        for _ in range(2):
            v = self.squash((F.softmax(b, 1) * still).sum(2, keepdim=True))
            b += (still * v).sum(-1, keepdim=True)
        v = self.squash((F.softmax(b, 1) * votes).sum(2))
        lengths = (v**2).sum(-1) ** 0.5
        hot = torch.eye(3, dtype=x.dtype).index_select(0, labels)
        margin = hot * F.relu(0.9 - lengths) ** 2 + 0.5 * (1 - hot) * F.relu(lengths - 0.1) ** 2
        back = self.decode((v * hot[:, :, None]).view(v.size(0), -1))
        return margin.sum(1).mean() + 0.0005 * F.mse_loss(back, x.flatten(1)[:, :12])


class Turing(nn.Module):
    """A neural Turing machine: content and location addressing, rotation by a loop, erase and add in place."""

    def __init__(self, rows: int = 5, width: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        self.control = nn.LSTMCell(3 + width, hidden)
        self.heads, self.out = nn.Linear(hidden, 2 * (width + 6) + 2 * width), nn.Linear(hidden + width, 3)
        self.start = nn.Parameter(torch.randn(1, hidden) * 0.05)
        self.register_buffer("blank", 0.1 * torch.rand(rows, width))

    def address(self, p: Tensor, memory: Tensor, before: Tensor) -> Tensor:
        k, beta, g, shift, gamma = p.split([self.width, 1, 1, 3, 1], 1)
        content = F.softmax(F.softplus(beta) * F.cosine_similarity(memory + 1e-16, k.unsqueeze(1) + 1e-16, dim=-1), 1)
        mixed = torch.sigmoid(g) * content + (1 - torch.sigmoid(g)) * before
        shift, turned = F.softmax(shift, 1), torch.zeros_like(mixed)
        for row in range(mixed.size(0)):
            padded = torch.cat([mixed[row, -1:], mixed[row], mixed[row, :1]])
            turned[row] = F.conv1d(padded.view(1, 1, -1), shift[row].view(1, 1, -1)).view(-1)
        sharp = turned ** (1 + F.softplus(gamma))
        return sharp / (sharp.sum(1, keepdim=True) + 1e-16)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        memory = self.blank.clone().repeat(batch, 1, 1)
        h, c = self.start.repeat(batch, 1), torch.zeros(batch, self.start.size(1), dtype=x.dtype)
        read, wr, ww = (torch.zeros(batch, n, dtype=x.dtype) for n in (self.width, self.rows, self.rows))
        outs = []
        for t in range(x.size(1)):
            h, c = self.control(torch.cat([x[:, t], read], 1), (h, c))
            p = self.heads(h)
            size = self.width + 6
            wr = self.address(p[:, :size], memory, wr)
            read = torch.einsum("br,brw->bw", wr, memory)
            ww = self.address(p[:, size : 2 * size], memory, ww)
            erase, add = p[:, 2 * size :].chunk(2, 1)
            memory = memory * (1 - ww.unsqueeze(2) * erase.sigmoid().unsqueeze(1))
            memory += torch.bmm(ww.unsqueeze(2), add.unsqueeze(1))
            outs.append(self.out(torch.cat([h, read], 1)))
        return torch.stack(outs, 1).sigmoid()


class Stories(nn.Module):
    """An end-to-end memory network: sums of embedded words with position weights, hops, adjacent weights shared."""

    def __init__(self, words: int = 15, width: int = 6, hops: int = 3) -> None:
        super().__init__()
        self.hops = hops
        for hop in range(hops + 1):
            self.add_module(f"C_{hop}", nn.Embedding(words, width, padding_idx=0))
        self.places = nn.Parameter(torch.randn(5, width) * 0.1)

    def forward(self, story: Tensor, question: Tensor) -> Tensor:
        j, k = torch.arange(1, 5)[:, None], torch.arange(1, 7)
        position = 1 - j / 4 - k / 6 * (1 - 2 * j / 4)
        u = [getattr(self, "C_0")(question).sum(1)]  # noqa: B009
        for hop in range(self.hops):
            m = (getattr(self, f"C_{hop}")(story) * position).sum(2) + self.places
            p = F.softmax((m * u[-1].unsqueeze(1)).sum(2), 1)
            c = (getattr(self, f"C_{hop + 1}")(story) * position).sum(2) + self.places
            u.append(u[-1] + (p.unsqueeze(2) * c).sum(1))
        return u[-1] @ getattr(self, f"C_{self.hops}").weight.transpose(0, 1)


class Slots(nn.Module):
    """Slot attention: slots drawn from a learned Gaussian, normalised over slots, a GRU; implicit at the end."""

    def __init__(self, width: int = 6, slots: int = 3) -> None:
        super().__init__()
        self.slots = slots
        self.mean, self.log_std = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.gru, self.mlp = nn.GRUCell(width, width), mlp(width, 8, width, activation=nn.ReLU)

    def step(self, slots: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self.q(self.norms[1](slots))
        attention = (torch.einsum("bid,bjd->bij", q, k) * q.size(-1) ** -0.5).softmax(dim=1) + 1e-8
        updates = torch.einsum("bjd,bij->bid", v, attention / attention.sum(-1, keepdim=True))
        slots = self.gru(updates.reshape(-1, q.size(-1)), slots.reshape(-1, q.size(-1))).reshape(slots.shape)
        return slots + self.mlp(self.norms[2](slots))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x)
        k, v = self.k(x), self.v(x)
        mean, std = (t.expand(x.size(0), self.slots, -1) for t in (self.mean, self.log_std.exp()))
        slots = torch.normal(mean, std)
        slots = slots + mean - mean.detach()
        for _ in range(3):
            slots = self.step(slots, k, v)
        return self.step(slots.detach(), k, v)


class Perceiver(nn.Module):
    """Latents that attend to bytes again and again with shared layers, Fourier places, a padding mask."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, width) * 0.02)
        self.cross = nn.MultiheadAttention(width, 2, kdim=7, vdim=7, batch_first=True, dropout=0.1)
        layer = nn.TransformerEncoderLayer(width, 2, 16, 0.1, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, x.size(1)).unsqueeze(-1) * torch.linspace(1, 4, 2) * math.pi
        x = torch.cat([x, torch.stack([place.sin(), place.cos()], -1).flatten(1).expand(x.size(0), -1, -1)], -1)
        padded = ~(torch.arange(x.size(1))[None, :] < lengths[:, None])
        latents = self.latents.repeat(x.size(0), 1, 1)
        for _ in range(2):
            seen, _ = self.cross(latents, x, x, key_padding_mask=padded, need_weights=False)
            latents = self.encoder(latents + seen)
        return self.head(latents.mean(1))


class Tree(nn.Module):
    """A Tree-LSTM: recursion over nested Python tuples of words."""

    def __init__(self, words: int = 9, width: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.iou, self.sums = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width, bias=False)
        self.forget, self.out = nn.Linear(width, width), nn.Linear(width, 2)

    def node(self, tree: Any) -> tuple[Tensor, Tensor]:
        if isinstance(tree, int):
            i, o, u = self.iou(self.embed(torch.tensor(tree))).chunk(3)
            c = i.sigmoid() * u.tanh()
        else:
            children = [self.node(child) for child in tree]
            h = torch.stack([h for h, _ in children])
            i, o, u = self.sums(h.sum(0)).chunk(3)
            c = i.sigmoid() * u.tanh() + (self.forget(h).sigmoid() * torch.stack([c for _, c in children])).sum(0)
        return o.sigmoid() * c.tanh(), c

    def forward(self, trees: list[Any]) -> Tensor:
        return self.out(torch.stack([self.node(tree)[0] for tree in trees]))


def _loss(output: Tensor) -> Tensor:
    return output


MODELS: dict[str, Callable[[], Case]] = {
    "capsules": lambda: Case(Capsules().double(), (image(3, 6, 4), torch.tensor([0, 2, 1])), loss=_loss),
    "neural Turing machine": lambda: Case(Turing().double(), (image(2, 4, 3),)),
    "memory network": lambda: Case(Stories().double(), (torch.randint(0, 15, (2, 5, 4)), torch.randint(1, 15, (2, 4)))),
    "slot attention": lambda: Case(Slots().double(), (image(2, 7, 6),)),
    "Perceiver": lambda: Case(Perceiver().double(), (image(2, 9, 3), torch.tensor([9, 6]))),
    "Tree-LSTM": lambda: Case(Tree().double(), ([((1, 2), (3, (4, 5))), (6, (7, 8)), 2],)),
}

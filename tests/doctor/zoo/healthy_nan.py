"""Healthy programs in which something is infinite or NaN on the way, as it is meant. Data: factories as in sick_nan."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from zoo.sick_nan import Attention, Made, Net, Tensor, data, regression, sequences, silence, silent

HEALTHY_NAN: dict[str, Callable[[], Made]] = {}


def healthy(make: Callable[[], Made]) -> Callable[[], Made]:
    HEALTHY_NAN[make.__name__] = make
    return make


@healthy
def mask_with_infinity() -> Made:
    return Attention(lambda scores, keep: scores.masked_fill(keep[:, None] == 0, -math.inf)), None, [sequences()]


@healthy
def logarithm_of_a_mask() -> Made:
    return Attention(lambda scores, keep: scores + torch.log(keep)[:, None]), None, [sequences()]


@healthy
def causal_mask_in_a_buffer() -> Made:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.register_buffer("mask", torch.full((5, 5), -math.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x, attn_mask=self.mask, need_weights=False)[0].square().mean()

    return Causal(), None, [(torch.randn(2, 5, 8),)]


@healthy
def attention_that_gives_padding_zeros() -> Made:
    """scaled_dot_product_attention has a softmax of its own for rows that are masked altogether."""

    def middle(self: Net, x: Tensor, keep: Tensor) -> Tensor:
        h = self.inner(x)
        return F.scaled_dot_product_attention(h, h, h, attn_mask=keep[:, None, :].bool()).square().mean()

    keep = torch.ones(2, 4)
    keep[1] = 0
    return Net(middle), None, [(torch.randn(2, 4, 6), keep)]


@healthy
def where_with_a_safe_operand() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        safe = torch.where(h > 0, h, 1.0)
        return F.mse_loss(self.outer(torch.where(h > 0, safe.sqrt(), h)), t)

    return Net(middle), None, [regression()]


@healthy
def infinity_behind_where_without_a_gradient() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        scale = torch.where(x.abs() > 0.5, 1 / x, torch.log(x * 0))
        return F.mse_loss(self.outer(self.inner(torch.where(x.abs() > 0.5, scale, x))), t)

    return Net(middle), None, [regression()]


@healthy
def missing_targets_left_out_by_index() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        error = (self.outer(self.inner(x)) - torch.nan_to_num(t)).square()
        return torch.where(t.isnan(), 0.0, error).sum() / (~t.isnan()).sum()

    x, y = regression()
    y[2, 0] = math.nan
    return Net(middle), None, [(x, y)]


@healthy
def hardest_negative_with_an_infinite_diagonal() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        distance = (h[:, None] - h[None]).square().sum(-1)
        nearest = distance.masked_fill(torch.eye(len(x), dtype=torch.bool), math.inf).amin(1)
        return F.relu(2.0 - nearest).mean() + self.outer(h).square().mean()

    return Net(middle), None, [regression()]


@healthy
def logsumexp_with_absent_states() -> Made:
    """The forward algorithm of a chain whose first state is known: all others have probability 0."""

    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        steps = torch.log_softmax(self.outer(self.inner(x)), -1)
        alpha = torch.full((3,), -math.inf)
        alpha = torch.where(torch.arange(3) == 0, 0.0, alpha)
        for emission in steps.unbind(0):
            alpha = torch.logsumexp(alpha[:, None] + torch.zeros(3, 3), 0) + emission
        return -torch.logsumexp(alpha, 0)

    return Net(middle), None, [data()]


@healthy
def top_p_filter() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        logits = self.outer(self.inner(x))
        kept = logits >= logits.topk(2, -1).values[:, -1:]
        p = torch.softmax(torch.where(kept, logits, -math.inf), -1)
        return p.square().sum()

    return Net(middle), None, [data()]


@healthy
def entropy_of_certain_labels() -> Made:
    """xlogy is 0 at 0."""

    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        p = torch.softmax(self.outer(self.inner(x)), -1)
        return F.kl_div(p.log(), F.one_hot(t, 3).float(), reduction="batchmean")

    return Net(middle), None, [data()]


@healthy
def largest_of_nothing_yet() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        best = torch.full((len(x), 3), -math.inf)
        for part in x.split(2, 1):
            best = torch.maximum(best, self.outer(self.inner(part.repeat(1, 3))))
        return F.cross_entropy(best, t)

    return Net(middle), None, [data()]


@healthy
def angle_of_nothing() -> Made:
    """The derivative of atan2 at 0 is 0 in PyTorch."""

    def middle(self: Net, x: Tensor, y: Tensor) -> Tensor:
        v = self.outer(self.inner(x))
        return (torch.atan2(v[:, 0], v[:, 1]) - 0.3).square().mean()

    model = silent(Net(middle))
    nn.init.zeros_(model.outer.bias)
    return model, None, [silence()]


@healthy
def root_behind_a_rectifier() -> Made:
    """The derivative of the root is infinite at 0, and that of relu does not multiply by it."""

    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        return torch.relu(self.outer(self.inner(x))).sqrt().mean()

    return Net(middle), None, [data()]

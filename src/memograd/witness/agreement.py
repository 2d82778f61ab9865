"""When do two gradients agree? When their difference is what rounding makes of one and the same derivative.

A difference within ``tight`` is rounding beyond doubt. Anything larger is a doubt, not yet a fault: gradients whose
true value is zero are all noise, and sums with cancellation lose digits. ``trial.py`` settles doubts in float64;
``loose`` is the most that may be left in lower precision when the rules are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import torch

from memograd._torch import float32_precisions
from memograd.graph.graph import Graph

Tensor = torch.Tensor


@dataclass(frozen=True)
class Precision:
    """The arithmetic a graph computes in.

    Attributes:
        eps: the largest relative error of one rounding.
        tight, loose: how far apart two results may lie, as a share of the largest element.
    """

    name: str
    eps: float
    tight: float
    loose: float


FLOAT64 = Precision("float64", 2**-53, 1e-8, 1e-6)
_FLOAT32 = Precision("float32", 2**-24, 1e-5, 1e-3)
_TENSOR32 = Precision("TensorFloat32", 2**-11, 1e-2, 5e-2)
FLOAT16 = Precision("float16", 2**-11, 1e-2, 1e-1)
_BFLOAT16 = Precision("bfloat16", 2**-8, 3e-2, 3e-1)
_OF = {
    torch.float64: FLOAT64,
    torch.complex128: FLOAT64,
    torch.float32: _FLOAT32,
    torch.complex64: _FLOAT32,
    torch.float16: FLOAT16,
    torch.complex32: FLOAT16,
}
NOISE = 1e-2  # of ``tight``, as a share of the largest gradient of all: what cancels leaves that much behind


def precision_of(graph: Graph) -> Precision:
    """The lowest precision of any value in ``graph``."""
    values = [v for n in graph.fx.nodes if isinstance(v := n.meta.get("val"), Tensor)]
    smooth = {(v.dtype, v.device.type) for v in values if v.is_floating_point() or v.is_complex()}
    return max((_precision(*kind) for kind in smooth), key=lambda p: p.tight, default=FLOAT64)


def _precision(dtype: torch.dtype, device: str) -> Precision:
    precision = _OF.get(dtype, _BFLOAT16)
    if device == "cuda" and precision is _FLOAT32:
        digits = {digits for (library, _), digits in float32_precisions().items() if library == "cuda"}
        return _TENSOR32 if "tf32" in digits else precision
    return precision


@dataclass(frozen=True)
class Difference:
    """Where a result of ours and PyTorch's are farthest apart.

    Attributes:
        what: ``the loss``, ``the gradient of 'weight'``, ``the new value of 'running_mean'``.
        name: the parameter's or buffer's name; empty for the loss.
        error: the largest distance of two elements; infinite where only one of the two is a number.
        scale: the largest element of PyTorch's.
    """

    what: str
    name: str
    error: float
    scale: float
    index: tuple[int, ...]
    ours: complex
    theirs: complex

    @property
    def share(self) -> float:
        return self.error / self.scale if self.scale else inf

    def __str__(self) -> str:
        at = f" at index {self.index}" if self.index else ""
        size = f" by {self.share:.2g} times its largest element" if self.name and self.share < inf else ""
        return f"{self.what} differs{size}: ours is {self.ours:.9g}{at}, PyTorch's {self.theirs:.9g}"


@dataclass(frozen=True)
class Left:
    """A number or tensor that a program leaves behind in an object, ``self.last = loss``."""

    name: str
    value: Tensor


def number(value: Any) -> Tensor | None:
    """A tensor, or a whole number as one; None for everything else (a time of day, an object of its own)."""
    if isinstance(value, Tensor):
        return value.detach()
    return torch.tensor(value) if isinstance(value, int) and abs(value) < 2**62 else None


@dataclass(frozen=True)
class Results:
    """What a step computes before the update, by us or by PyTorch.

    Attributes:
        loss: the first tensor that the program returns.
        gradients: of each parameter in question; None where the loss does not depend on it.
        written: the new content of what the program wrote to, by name: buffers, arguments, parameters.
        left: what it left behind, by the id of the object and the key.
        results: further results, by name.
        value, derivative: what messages call the loss and the gradients.
    """

    loss: Tensor
    gradients: Mapping[str, Tensor | None]
    written: Mapping[str, Tensor]
    left: Mapping[tuple[int, Any], Left] = field(default_factory=dict)
    results: Mapping[str, Tensor] = field(default_factory=dict)
    value: str = "the loss"
    derivative: str = "the gradient"

    @property
    def largest(self) -> float:
        """The largest element of all gradients."""
        return max((largest(g) for g in self.gradients.values() if g is not None), default=0.0)


def differences(ours: Results, theirs: Results, share: float) -> Iterator[Difference]:
    """What is farther apart than ``share`` of its largest element, and than cancellation explains."""
    noise = NOISE * share * theirs.largest
    if apart := difference(theirs.value, "", ours.loss, theirs.loss, share, 0.0):
        yield apart
    for name, gradient in theirs.gradients.items():
        mine = ours.gradients.get(name)
        if mine is None and gradient is None:
            continue
        mine, gradient = or_zeros(mine, gradient), or_zeros(gradient, mine)
        if apart := difference(f"{theirs.derivative} of {name!r}", name, mine, gradient, share, noise):
            yield apart
    for name, value in theirs.results.items():
        if apart := difference(f"the result {name!r}", name, ours.results[name], value, share, 0.0):
            yield apart
    for name, value in theirs.written.items():
        mine = ours.written.get(name, value)  # a run that is moved for a comparison names what the graph writes to
        if apart := difference(f"the new value of {name!r}", name, mine, value, share, 0.0):
            yield apart
    for place in {**ours.left, **theirs.left}:
        mine, other = ours.left.get(place), theirs.left.get(place)
        if mine is not None and other is not None:
            what = f"what is left in {mine.name!r}"
            if apart := difference(what, mine.name, mine.value, other.value, share, 0.0):
                yield apart


def difference(
    what: str, name: str, ours: Tensor, theirs: Tensor, share: float, noise: float | Tensor
) -> Difference | None:
    """The largest difference of two tensors, if it is beyond ``share`` of the largest element and ``noise``."""
    ours, theirs = (t.to_dense() if t.layout is torch.sparse_coo else t for t in (ours, theirs))
    if ours.shape == theirs.shape and ours.dtype == theirs.dtype and torch.equal(ours, theirs):
        return None  # mostly; the rest costs many passes over memory
    beyond = _distance(ours, theirs).sub_(noise)
    scale = largest(theirs)
    if not beyond.numel() or beyond.max().item() <= share * scale:
        return None
    distance = _distance(ours, theirs)
    worst = int(beyond.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), theirs.shape)) if theirs.dim() else ()
    pair = [t.detach().reshape(-1)[worst].item() for t in (ours.expand_as(theirs), theirs)]
    return Difference(what, name, distance.reshape(-1)[worst].item(), scale, index, *pair)


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Element by element; nothing where theirs is no finite number, infinite where ours alone is none."""
    ours, theirs = _wide(ours), _wide(theirs)
    apart = (ours - theirs).abs()
    if apart.numel() and not bool(torch.isfinite(apart.max())):
        apart = torch.where(torch.isfinite(ours), apart, inf)
        apart = torch.where(torch.isfinite(theirs), apart, 0.0)
    return apart


def largest(tensor: Tensor) -> float:
    """The largest finite absolute value; 0 for an empty tensor."""
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.detach().coalesce().values()
    if not tensor.numel():
        return 0.0
    sizes = _wide(tensor).abs()
    if isfinite(top := sizes.max().item()):
        return top
    return torch.where(torch.isfinite(sizes), sizes, 0.0).max().item()


def _wide(tensor: Tensor) -> Tensor:
    """In a dtype whose own rounding does not matter here."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        return tensor
    if tensor.is_complex():
        return tensor.to(torch.complex64)
    return tensor.float() if tensor.is_floating_point() else tensor.double()


def or_zeros(tensor: Tensor | None, like: Tensor | None) -> Tensor:
    """``tensor``, or zeros as large as ``like`` where there is none."""
    if tensor is not None:
        return tensor
    assert like is not None
    return torch.zeros_like(like)

"""The derivative table against PyTorch's own test database (OpInfo, ``torch.testing``'s ``op_db``).

Every sample of every differentiable operator: our vector-Jacobian product with random cotangents against
``torch.autograd.grad``. A sample *passes*, is *refused* (a loud error that says why) or is *wrong*. Where the two
disagree in double precision, finite differences decide: autograd is not the derivative everywhere (``cholesky_inverse``
reads one triangle and gets a gradient in both).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from memograd._torch import pytree
from memograd.errors import MemogradError
from memograd.transforms.check import check_transforms
from memograd.transforms.vjp import vjp
from memograd.verify.measured import Watch, watch

Tensor = torch.Tensor
TOLERANCE = {
    torch.float64: 1e-8,
    torch.complex128: 1e-8,
    torch.float32: 2e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
}

_DOUBLE = (torch.float64, torch.complex128)
_SEED = 12345


@dataclass
class Tally:
    """What happened to the samples of one entry."""

    name: str
    passed: int = 0
    disputed: int = 0  # of those passed, where autograd differs from finite differences and we do not
    refused: int = 0
    wrong: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    used: Counter[Any] = field(default_factory=Counter)  # operators whose rule the passing samples used
    outer: Counter[Any] = field(default_factory=Counter)  # of those, used on a derivative (order 2)
    complex: Counter[Any] = field(default_factory=Counter)  # of those, used on complex numbers

    @property
    def verdict(self) -> str:
        return "wrong" if self.wrong else "refused" if self.refused else "pass" if self.passed else "no samples"

    def __str__(self) -> str:
        reason = self.reasons.most_common(1)[0][0] if self.reasons else ""
        return f"{self.name:55s} {self.verdict:10s} {self.passed:4d} {self.refused:4d} {self.wrong:4d}  {reason[:110]}"


def entries(dtype: torch.dtype = torch.float64, order: int = 1, device: str = "cpu") -> list[Any]:
    """The entries of op_db that autograd differentiates in ``dtype`` on a type of device."""
    from torch.testing._internal.common_methods_invocations import op_db  # needs the package expecttest

    infos = [op for op in op_db if op.supports_autograd and dtype in op.supported_backward_dtypes(device)]
    return [op for op in infos if order == 1 or op.supports_gradgrad]


def sweep(
    ops: Iterable[Any],
    dtype: torch.dtype = torch.float64,
    order: int = 1,
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Tally]:
    """One tally for each entry; ``limit`` samples of each at most, drawn by ``seed``."""
    for op in ops:
        torch.manual_seed(seed)
        tally = Tally(op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""))
        try:
            samples = list(op.sample_inputs(device, dtype, requires_grad=True))
        except Exception as error:  # the database itself lacks something (a library, a device)
            tally.reasons[f"no samples: {error}"] += 1
            yield tally
            continue
        if limit is not None and len(samples) > limit:
            samples = random.Random(f"{seed} {op.name}").sample(samples, limit)
        with plain_random(), check_transforms(False), watch() as noted:  # what is wrong is to be counted, not raised
            for sample in samples:
                before = tally.passed
                noted.clear()
                _count(tally, op, sample, dtype, order, noted)
                if tally.passed > before:
                    tally.used.update(noted.first)
                    tally.outer.update(noted.second)
                    tally.complex.update(noted.complex)
        yield tally


@contextmanager
def plain_random() -> Iterator[None]:
    """The database seeds random operators inside their call, which a graph does not repeat; we seed outside."""
    from torch.testing._internal import common_methods_invocations

    with patch.object(common_methods_invocations, "wrapper_set_seed", lambda op, *args, **kwargs: op(*args, **kwargs)):
        yield


def _count(tally: Tally, op: Any, sample: Any, dtype: torch.dtype, order: int, noted: Watch) -> None:
    function, tensors = flat_function(op, sample)
    if not tensors:
        return
    try:
        torch.manual_seed(_SEED)  # random operators draw the same in all runs
        witness = by_autograd(function, [t.clone() for t in tensors], order)
    except Exception:  # autograd itself cannot: nothing to compare with
        return
    if witness is None:
        return
    cotangents, theirs = witness
    try:
        ours = _ours(function, tensors, cotangents, order, noted)
    except MemogradError as error:
        tally.refused += 1
        tally.reasons[f"{type(error).__name__}: {error}"] += 1
        return
    except Exception as error:
        tally.refused += 1
        tally.reasons[f"CRASH {type(error).__name__}: {error}"] += 1
        return
    tolerance = TOLERANCE.get(dtype, 1e-3) * 10 ** (2 * (order - 1))
    problem = compare(ours, theirs, tensors, tolerance)
    if problem is not None and order == 1:
        if dtype in _DOUBLE:
            ours_is_right = closer(function, tensors, cotangents[0], ours, theirs)
        else:
            ours_is_right = _right_in_double(op, sample, cotangents, ours, tolerance)
        tally.disputed += ours_is_right
        problem = None if ours_is_right else problem
    tally.passed += problem is None
    if problem is not None:
        tally.wrong += 1
        tally.reasons[f"WRONG {problem}"] += 1


def flat_function(op: Any, sample: Any) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The sample as a function of the tensors that require gradients, returning the results that have them."""
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
    target = op.get_op()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        # the running statistics of a normalization (a number for each channel) are written to: each call has its own
        filled = [x.clone() if isinstance(x, Tensor) and x.dim() == 1 and x.is_floating_point() else x for x in leaves]
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(filled, spec)
        out = target(first, *args, **kwargs)
        if sample.output_process_fn_grad is not None:
            out = sample.output_process_fn_grad(out)
        smooth = [o for o in pytree.tree_leaves(out) if isinstance(o, Tensor)]
        return tuple(o for o in smooth if o.is_floating_point() or o.is_complex())

    return function, [leaves[i].detach() for i in places]


def by_autograd(function: Callable[..., Any], copies: Sequence[Tensor], order: int, given: Any = None) -> Any:
    """(cotangents of each order, gradients of the last by torch.autograd), or None where autograd has none to offer.

    ``copies`` become leaves; ``given``: the cotangents to use in place of random ones.
    """
    leaves = [t.requires_grad_() for t in copies]
    cotangents: list[tuple[Tensor, ...]] = []
    outs = function(*leaves)
    generator = torch.Generator().manual_seed(_SEED)  # the same numbers on every device
    for degree in range(1, order + 1):
        seeds = given or tuple(_random(o, generator) for o in outs)
        cotangents.append(seeds)
        outs = pulled_back(outs, leaves, seeds, create_graph=degree < order)
        if outs is None:
            return None
    return cotangents, outs


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)


def pulled_back(
    outs: Sequence[Tensor], leaves: Sequence[Tensor], seeds: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...] | None:
    """The gradients of ``leaves`` by torch.autograd, zeros for those it does not reach; None if it reaches none."""
    used = [(o, s) for o, s in zip(outs, seeds, strict=True) if o.requires_grad]
    if not used:
        return None
    ends, given = zip(*used, strict=True)
    gradients = torch.autograd.grad(ends, leaves, given, allow_unused=True, create_graph=create_graph)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True))


def _ours(
    function: Callable[..., Any], tensors: list[Tensor], cotangents: Any, order: int, noted: Watch
) -> tuple[Tensor, ...]:
    torch.manual_seed(_SEED)
    for seeds in cotangents[: order - 1]:
        function = _pulled(function, seeds, noted)
    with noted.level(outer=order > 1):
        return vjp(function, *tensors)[1](cotangents[order - 1])


def _pulled(function: Callable[..., Any], seeds: Any, noted: Watch) -> Callable[..., Any]:
    def gradient(*at: Tensor) -> tuple[Tensor, ...]:
        with noted.level(outer=False):
            return vjp(function, *at)[1](seeds)

    return gradient


def closer(
    function: Callable[..., Any],
    at: list[Tensor],
    cotangents: Sequence[Tensor],
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
) -> bool:
    """True where central differences along random directions agree with ``ours`` and contradict ``theirs``."""
    generator = torch.Generator().manual_seed(_SEED)
    step, contradicted = 1e-6, False
    for _ in range(3):
        along = [_random(x, generator) for x in at]
        ahead, behind = (
            seeded_value(function, [x + h * d for x, d in zip(at, along, strict=True)], cotangents)
            for h in (step, -step)
        )
        slope = (ahead - behind) / (2 * step)
        good, bad = (sum(_inner(g, d) for g, d in zip(side, along, strict=True)) for side in (ours, theirs))
        size = 1 + sum(float((g * d).abs().sum()) for g, d in zip(ours, along, strict=True))
        if not abs(slope - good) <= 1e-5 * size:
            return False
        contradicted = contradicted or not abs(slope - bad) <= 1e-4 * size
    return contradicted


def seeded_value(function: Callable[..., Any], at: Sequence[Tensor], cotangents: Sequence[Tensor]) -> float:
    """The results times their cotangents."""
    torch.manual_seed(_SEED)
    return sum(_inner(c, o) for o, c in zip(function(*at), cotangents, strict=True))


def _inner(a: Tensor, b: Tensor) -> float:
    """Of gradients and directions; complex numbers as pairs of reals."""
    return float((a.conj() * b).real.sum()) if a.is_complex() else float((a * b).sum())


def _right_in_double(op: Any, sample: Any, cotangents: Any, ours: Sequence[Tensor], tolerance: float) -> bool:
    """True where ``ours``, in lower precision, is near the gradient of the same sample in double precision."""

    def double(x: Any) -> Any:
        if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
            return x
        wide = x.detach().to(torch.complex128 if x.is_complex() else torch.float64)
        return wide.requires_grad_(x.requires_grad)

    function, tensors = flat_function(op, sample.transform(double))
    seeds = [tuple(double(c) for c in cotangents[0])]
    try:
        theirs = by_autograd(function, [t.clone() for t in tensors], 1, seeds[0])[1]
        exact = _ours(function, tensors, seeds, 1, Watch())
    except Exception:  # not an operator for double precision
        return False
    if compare(exact, theirs, tensors, 1e-8) and not closer(function, tensors, seeds[0], exact, theirs):
        return False
    return compare([double(g) for g in ours], exact, tensors, tolerance) is None


def compare(ours: Iterable[Tensor], theirs: Iterable[Tensor], like: Iterable[Tensor], tolerance: float) -> str | None:
    """None when the gradients agree in shape, dtype and value; else what differs."""
    for k, (a, b, x) in enumerate(zip(ours, theirs, like, strict=True)):
        if a.shape != x.shape or a.dtype != x.dtype:
            return f"gradient {k} is {a.dtype}{list(a.shape)} for an argument {x.dtype}{list(x.shape)}"
        close = tolerance if a.dtype in _DOUBLE else max(tolerance, TOLERANCE.get(a.dtype, 2e-3))
        if not torch.allclose(a, b, rtol=close, atol=close, equal_nan=True):
            error = (a - b).abs().nan_to_num(nan=float("inf")).max().item()
            return f"gradient {k} differs by up to {error:.3g}"
    return None

"""Operators and modules on tensors that lie in memory as they do in programs: transposed, expanded, channels last, with
gaps, overlapping; and their adjoints likewise.

Two questions about each sample: are the gradients those of ``torch.autograd``, and does every operator of the graph,
forward and backward, return the strides that the trace said it would?
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from memograd._torch import copy_of
from memograd.errors import DataDependentError, MemogradError
from memograd.graph.graph import Graph
from memograd.graph.interpreter import called, interpret
from memograd.pipeline import capture_for, differentiate
from memograd.transforms.check import check_transforms
from memograd.transforms.vjp import vjp
from memograd.verify.sweep import (
    TOLERANCE,
    Tally,
    by_autograd,
    closer,
    compare,
    flat_function,
    plain_random,
    seeded_value,
)
from memograd.verify.sweep_modules import cases as module_cases

Tensor = torch.Tensor
Function = Callable[..., tuple[Tensor, ...]]

_SEED = 12345
_SINGULAR = 1e6  # gradients beyond that are not those of a function near this point

# These sort the dimensions of what they transform by their strides; how equal ones come to lie is the sort's to decide.
SORTED = frozenset({torch.ops.aten._fft_c2c.default, torch.ops.aten._fft_r2c.default, torch.ops.aten._fft_c2r.default})

# PyTorch's kernels (2.13) read beyond the memory of a tensor that is expanded along the dimension: its values are any
# numbers then, and the process may end (torch.randn(1, 4).expand(9, 4).median(0)). There is nothing to compare with.
READS_BEYOND = frozenset({"median", "nanmedian"})


def _ordered(x: Tensor, outwards: Sequence[int]) -> Tensor:
    """``x`` with these dimensions in memory, from the outermost to the innermost."""
    back = [list(outwards).index(d) for d in range(x.dim())]
    return x.permute(list(outwards)).contiguous().permute(back)


def _channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def _expanded(x: Tensor, dims: Iterable[int]) -> Tensor:
    dim = next((d for d in dims if x.shape[d] > 1), None)
    return x if dim is None else x.select(dim, 0).unsqueeze(dim).expand(x.shape)


def _gaps(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0] if x.dim() else x


def _overlapping(x: Tensor) -> Tensor:
    if x.dim() < 2 or not x.numel():
        return x
    return x.reshape(-1)[: sum(n - 1 for n in x.shape) + 1].as_strided(x.shape, [1] * x.dim())


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "reversed": lambda x: _ordered(x, range(x.dim())[::-1]),
    "rotated": lambda x: _ordered(x, [*range(1, x.dim()), *range(x.dim())[:1]]),
    "channels last": _channels_last,
    "expanded": lambda x: _expanded(x, range(x.dim())),
    "expanded inside": lambda x: _expanded(x, reversed(range(x.dim()))),
    "gaps": _gaps,
    "gaps, reversed": lambda x: _gaps(x.permute([*range(x.dim())][::-1])).permute([*range(x.dim())][::-1]),
    "overlapping": _overlapping,
}

# A cotangent is contiguous; the adjoint that arrives at an operator lies as what stands between the two says.
ADJOINTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda y: y,
    "reversed": lambda y: y.permute([*range(y.dim())][::-1]),
    "rotated": lambda y: y.permute([*range(1, y.dim()), *range(y.dim())[:1]]),
    "channels last": lambda y: y.movedim(1, -1) if y.dim() > 3 else y,
    "expanded": lambda y: y.sum(),
    "gaps": lambda y: torch.cat([y, y], -1) if y.dim() else y,
}


def sweep(
    ops: Iterable[Any],
    dtype: torch.dtype = torch.float64,
    limit: int | None = None,
    forms: int | None = None,
    order: int = 1,
    seed: int = 0,
) -> Iterator[Tally]:
    """One tally for each entry of op_db: ``limit`` samples at most, each in ``forms`` pairs of a layout and an
    adjoint, drawn by ``seed``; None for all."""
    for op in ops:
        torch.manual_seed(seed)
        tally = Tally(op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""))
        draw = random.Random(f"{seed} {tally.name}")
        samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
        with plain_random():
            for sample in samples if limit is None else draw.sample(samples, min(limit, len(samples))):
                function, tensors = flat_function(op, sample)
                for layout, adjoint in _pairs(draw, forms):
                    if not (op.name in READS_BEYOND and "expanded" in layout):
                        _count(tally, function, tensors, layout, adjoint, order, dtype)
        yield tally


def sweep_modules(
    infos: Iterable[Any], limit: int | None = None, forms: int | None = None, order: int = 1, seed: int = 0
) -> Iterator[Tally]:
    """The same for the modules of module_db, in train mode: parameters and inputs laid out in each way."""
    for info in infos:
        torch.manual_seed(seed)
        tally = Tally(info.name)
        draw = random.Random(f"{seed} {tally.name}")
        samples = module_cases(info, True, torch.float64, limit, seed)
        for case in samples:
            for pair in _pairs(draw, forms):
                function = case.function(copy.deepcopy(case.module))
                _count(tally, function, case.tensors, *pair, order, torch.float64)
        yield tally


def _pairs(draw: random.Random, forms: int | None) -> list[tuple[str, str]]:
    pairs = [(a, b) for a in LAYOUTS for b in ADJOINTS]
    return pairs if forms is None else draw.sample(pairs, min(forms, len(pairs)))


def _count(
    tally: Tally, function: Function, tensors: list[Tensor], layout: str, adjoint: str, order: int, dtype: torch.dtype
) -> None:
    if not tensors or any(t.layout is not torch.strided for t in tensors):
        return
    points = [copy_of(LAYOUTS[layout](t)) for t in tensors]
    with check_transforms(False):  # what is wrong is to be counted, not raised
        problem = check(lambda *at: tuple(ADJOINTS[adjoint](y) for y in function(*at)), points, order, TOLERANCE[dtype])
    tally.passed += problem == ""
    if problem:
        refused = problem.startswith("refused")
        tally.refused, tally.wrong = tally.refused + refused, tally.wrong + (not refused)
        tally.reasons[f"{layout}, adjoint {adjoint}: {problem}"] += 1


def check(function: Function, points: list[Tensor], order: int, tolerance: float) -> str | None:
    """What is wrong with our gradients of ``function``, or with the strides on the way; "" for nothing; None where
    autograd has no gradients."""
    try:
        torch.manual_seed(_SEED)
        witness = by_autograd(function, [copy_of(p) for p in points], order)
    except Exception:  # autograd itself cannot
        return None
    if witness is None:
        return None
    cotangents, theirs = witness
    if not all(torch.isfinite(g).all() and (not g.numel() or g.abs().max() < _SINGULAR) for g in theirs):
        return None  # a matrix of equal rows
    try:
        torch.manual_seed(_SEED)
        for seeds in cotangents[:-1]:
            function = _pulled(function, seeds)
        ours = vjp(function, *points)[1](cotangents[-1])
        wrong = compare(ours, theirs, points, tolerance * 10 ** (2 * (order - 1)))
        if wrong and order > 1:
            return f"WRONG {wrong}"
        if wrong:  # finite differences decide, in double precision
            at, seeds, ours, theirs = map(_doubled, (points, cotangents[0], ours, theirs))
            if not _is_smooth_at(function, at, seeds):
                return None
            if not closer(function, at, seeds, ours, theirs):
                return f"WRONG {wrong}"
        torch.manual_seed(_SEED)
        graph = differentiate(capture_for(function, tuple(points), {}), cotangents="output")
        return next(unlike(graph, graph.bind(points, {}, cotangents[-1])), "")
    except DataDependentError:
        return ""  # traced on values: its strides are those of kernels
    except MemogradError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"


def _doubled(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in tensors]


def _is_smooth_at(function: Function, at: list[Tensor], cotangents: Sequence[Tensor]) -> bool:
    """False where the results jump, or central differences with two steps contradict each other: there is no derivative
    to compare with (of a matrix of equal rows nothing decides the singular vectors, and its least squares solution is
    far from those of its neighbours)."""
    generator = torch.Generator().manual_seed(_SEED)
    here = seeded_value(function, at, cotangents)
    for _ in range(3):
        slopes: list[float] = []
        along = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in at]
        for step in (1e-6, 1e-5):
            beside = [[x + h * d for x, d in zip(at, along, strict=True)] for h in (step, -step)]
            if any(o.shape != c.shape for o, c in zip(function(*beside[0]), cotangents, strict=True)):
                return False
            ahead, behind = (seeded_value(function, point, cotangents) for point in beside)
            if not abs((ahead + behind) / 2 - here) <= 1e-4 * (1 + abs(here)):
                return False
            slopes.append((ahead - behind) / (2 * step))
        if not abs(slopes[0] - slopes[1]) <= 1e-3 * (1 + abs(slopes[0])):
            return False
    return True


def _pulled(function: Function, seeds: tuple[Tensor, ...]) -> Function:
    return lambda *at: vjp(function, *at)[1](seeds)


def unlike(graph: Graph, flat: Sequence[Any]) -> Iterator[str]:
    """Run ``graph`` on ``flat``, operator by operator: each result that lies otherwise than the trace said. Behind one
    it goes on as if it did not, so that none hides another."""
    values: dict[fx.Node, Any] = dict(zip(graph.placeholders, flat, strict=True))

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        with torch.no_grad():
            return called(node, args, kwargs)

    for ran in interpret(graph.nodes, values, call):
        node = ran.node
        several = isinstance(ran.value, (tuple, list))
        results = list(ran.value) if several else [ran.value]
        traced = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
        for k, (real, said) in enumerate(zip(results, traced, strict=True)):
            if isinstance(real, Tensor) and not lies_alike(real, said):
                if node.target not in SORTED or not has_equal_strides(ran.args[0]):
                    yield f"STRIDES {node.target}[{k}]: {tuple(real.shape)} in {real.stride()}, traced {said.stride()}"
                results[k] = torch.empty_strided(real.shape, said.stride(), dtype=real.dtype).copy_(real)
        values[node] = results if several else results[0]


def lies_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same strides, as far as these matter."""
    if a.shape != b.shape or not a.numel():
        return True
    return all(n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))


def has_equal_strides(x: Tensor) -> bool:
    """Whether two dimensions of ``x`` have the same stride: no order of them is that of its memory."""
    strides = [s for n, s in zip(x.shape, x.stride(), strict=True) if n > 1]
    return len(set(strides)) < len(strides)

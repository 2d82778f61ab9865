"""Parameters that are frozen, shared, or in the same memory as others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import nn

from memograd.findings import listed
from memograd.inspection.report import Finding
from memograd.tracing.closures import closure_of

Named = list[tuple[str, torch.Tensor]]


def modules_of(f: Callable[..., object]) -> dict[str, nn.Module]:
    """The outermost modules of a program, by the name that their parameters' names begin with."""
    return {"": f} if isinstance(f, nn.Module) else closure_of(f).modules


def parameters(f: Callable[..., object]) -> list[Finding]:
    """The findings about the parameters of ``f``, without running it."""
    named: Named = []
    for name, module in modules_of(f).items():
        pairs = module.named_parameters(prefix=name, remove_duplicate=False)
        named += pairs
    return [*_frozen(named), *_tied(named), *_overlapping(named)]


def _frozen(named: Named) -> Iterable[Finding]:
    once = {id(p): (name, p) for name, p in reversed(named)}
    frozen = [(name, p) for name, p in reversed(once.values()) if not p.requires_grad]
    if frozen:
        names, numbers = [name for name, _ in frozen], sum(p.numel() for _, p in frozen)
        what = f"{len(frozen)} of {len(once)} parameters ({numbers} numbers) are frozen: {listed(names)}"
        yield Finding("note", "frozen parameters", f"{what}. No gradient of theirs is computed", names=tuple(names))


def _tied(named: Named) -> Iterable[Finding]:
    by_tensor: dict[int, list[str]] = {}
    for name, p in named:
        by_tensor.setdefault(id(p), []).append(name)
    for names in by_tensor.values():
        if len(names) > 1:
            what = f"{listed(names)} are one tensor: its gradient is the sum over all its uses"
            yield Finding("note", "tied parameters", what, names=tuple(names))


def _overlapping(named: Named) -> Iterable[Finding]:
    """Two parameters, each with a gradient and an update of its own, and one memory."""
    once = {id(p): (name, p) for name, p in reversed(named) if p.layout is torch.strided and p.numel()}
    spans = sorted(((*_span(p), name) for name, p in once.values()), key=lambda s: s[:3])
    for (storage, _, end, first), (other, start, _, second) in pairwise(spans):
        if storage == other and start < end:
            yield Finding(
                "warning",
                "shared memory",
                f"{first!r} and {second!r} are two parameters in one memory: what an optimizer does to one, it does to "
                "the other without its gradient",
                "Make them one parameter (b.weight = a.weight), or copy one (.clone())",
                names=(first, second),
            )


def _span(p: torch.Tensor) -> tuple[tuple[str, int], int, int]:
    """The storage, and the first and the last byte in it and one more."""
    start = int(p.storage_offset()) * p.element_size()
    last = sum((n - 1) * stride for n, stride in zip(p.shape, p.stride(), strict=True))
    return (str(p.device), p.untyped_storage().data_ptr()), start, start + int(last + 1) * p.element_size()

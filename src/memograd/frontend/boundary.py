"""One call of a wrapped model as one step of PyTorch's autograd: forward is our graph, backward our derivative of it.

Its explicit inputs are the parameters and whatever else requires a gradient, so hooks, accumulation and whoever else
waits for gradients see nothing new. What the forward pass computed and the backward pass reads is saved with autograd
itself: it lives as long as PyTorch's own would, ``retain_graph`` and hooks on saved tensors included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import repeat
from operator import attrgetter, is_
from types import MappingProxyType
from typing import Any

import torch

from memograd._torch import apply_alone, free_saved, inside_torch_func, is_batched
from memograd.draws import drawing, states
from memograd.errors import GraphError
from memograd.frontend.chain import UnderWay, wanted_of

Tensor = torch.Tensor
_VERSION = attrgetter("_version")
_CONTIGUOUS, _NEGATED = Tensor.contiguous, Tensor.resolve_neg
_NONES = repeat(None)


class Call:
    """One call: the program, what it was called with, and where the generators stood.

    Attributes:
        flat: the program's flat inputs, where it writes to one a copy of what that was.
        written: what the forward pass writes back.
        witness: PyTorch's own run of the call, where it is compared.
        groups: the flat inputs that autograd knows of, those first that the first node of the chain has.
        running: the plan that waits for cotangents.
        handed: the results that it waits with, while it holds them, and at which version.
        inner: the results that others were computed of, by position, while somebody holds them.
        twice: what came back to these from the others, by backward pass, and arrives once more (see ``between``).
        drawn, behind: where the generators stood before and behind the forward pass, if others may draw meanwhile.
    """

    groups: Sequence[list[int]] = ()
    written: Sequence[Tensor] | None = None
    witness: Any = None
    running: Any = None
    handed: Sequence[tuple[Callable[[], Tensor | None], int]] = ()
    drawn: Sequence[tuple[Tensor, str]] = ()
    behind: Sequence[tuple[Tensor, str]] = ()
    inner: Mapping[int, Callable[[], Tensor | None]] = MappingProxyType({})

    def __init__(self, program: Any, flat: Sequence[Any]) -> None:
        self.program = program
        self.flat = list(flat)
        self.twice: dict[int, dict[int, list[Tensor]]] = {}
        for k in program.overwritten:
            self.flat[k] = flat[k].clone()
        self.versions = _versions(self.flat)
        self.drawn = states(program.devices) if program.devices else ()

    def generators(self) -> AbstractContextManager[Any]:
        """Inside, this thread draws what it drew in the forward pass; the generators do not move. What cannot be drawn
        again raises GraphError."""
        return self._drawing_again() if self.drawn else nullcontext()

    @contextmanager
    def _drawing_again(self) -> Iterator[None]:
        with drawing(self.drawn) as own:
            yield
        ends = {device: generator.get_state() for device, generator in own.items()}
        drew = any(not torch.equal(ends[device], state) for state, device in self.drawn)
        if drew and any(not torch.equal(ends[device], state) for state, device in self.behind):
            raise GraphError(
                "a gradient that was not asked for before needs the random numbers of the model's forward pass again, "
                "and while that ran another thread drew from the same generator: call the model and differentiate once "
                "more (what is asked for is remembered), or let no other thread draw the first time"
            )

    def primals(self) -> list[Any]:
        """The flat inputs, as they were.

        Raises:
            RuntimeError: one was written to since, as PyTorch says it.
        """
        for tensor, version, entry in zip(self.flat, self.versions, self.program.early, strict=True):
            if version is not None and tensor._version != version:
                raise RuntimeError(
                    f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"{entry.name!r} is at version {tensor._version}; expected version {version} instead"
                )
        return self.flat

    def refuse_written_results(self, needed: Iterable[int]) -> None:
        """Raises RuntimeError, as PyTorch does, where a result that a waiting plan needs was written to since."""
        for k in needed:
            there, version = self.handed[k]
            result = there()
            if result is not None and result._version != version:
                raise RuntimeError(
                    f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"result {k} of the model is at version {result._version}; expected version {version} instead"
                )


def _versions(tensors: Iterable[Tensor]) -> Sequence[int | None]:
    """How often each was written to; None for one made in inference mode, which does not count."""
    try:
        return list(map(_VERSION, tensors))
    except RuntimeError:
        return [None if t.is_inference() else t._version for t in tensors]


class Boundary(torch.autograd.Function):
    """What a program, or its derivative, is to autograd: of a program the first node of its chain."""

    @staticmethod
    def forward(ctx: Any, call: Call, running: Any, *inputs: Any) -> Any:
        own = call.written is None  # the program itself
        given = call.flat if own else inputs
        handed, rest, saved = running.start(call, given)
        if own:
            call.written = rest
            if len(call.groups) > 1:
                ctx.device = inputs[-1].device  # that of the edge to the next node
            if call.witness is not None:
                call.witness.look(handed)
        ctx.set_materialize_grads(False)
        if running.constant:
            ctx.mark_non_differentiable(*[handed[k] for k in running.constant])
        ctx.save_for_backward(*saved)
        ctx.call, ctx.running, ctx.given = call, running, given
        return tuple(handed)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if not (ctx.call.inner and ctx.given is ctx.call.flat):
            return Boundary.pulled(ctx, cotangents)
        between = ctx.call.program.between
        gradients = Boundary.pulled(ctx, between.arriving(ctx.call, cotangents))
        if torch.is_grad_enabled():
            between.refuse_further(ctx.call, ctx, gradients)
        return gradients

    @staticmethod
    def pulled(ctx: Any, cotangents: Sequence[Any]) -> Any:
        """What autograd is handed for these cotangents."""
        saved = list(ctx.saved_tensors)  # raises where autograd has freed them already
        call, running, own = ctx.call, ctx.running, ctx.given is ctx.call.flat
        pattern = (tuple(map(is_, cotangents, _NONES)), ctx.needs_input_grad, torch.is_grad_enabled())
        usual = running.usual(pattern)
        if usual is not None and not (own and not call.program.as_foreseen(call, running, usual.question)):
            arriving = _laid([c for c in cotangents if c is not None], running.complex)
            if not inside_torch_func() and not any(map(is_batched, arriving)):
                free_saved(ctx)
                del cotangents
                return _answered(usual, call, saved, arriving, own)
        used = tuple([k for k, c in enumerate(cotangents) if c is not None])
        surely = running.surely(used)
        wanted = wanted_of(ctx, call.groups if own else None, surely)
        free_saved(ctx)
        question, arriving = (used, wanted), _laid([cotangents[k] for k in used], running.complex)
        del cotangents
        ready = running.ready.get((question, torch.is_grad_enabled()))
        if ready is not None and (own and not call.program.as_foreseen(call, running, question)):
            ready = None
        if ready is not None and not inside_torch_func() and not any(map(is_batched, arriving)):
            # nobody had to be asked what is wanted: ``pattern`` says it all
            if len(wanted) == sum(pattern[1]) and surely.issuperset(wanted):
                running.expect_usually(pattern, ready, surely)
            return _answered(ready, call, saved, arriving, own)
        if not own:
            answer: dict[int, Any] = {}
            if used and wanted:
                answer = call.program.pulled(call, running, question, ctx.given, saved, arriving)
            return (None, None, *[answer.get(k) for k in range(len(ctx.given))])
        under_way = UnderWay(())
        if used and wanted:
            under_way = call.program.under_way(call, running, question, saved, arriving)
        group, *others = call.groups
        gradients = under_way.take(group, last=not others)
        return (None, None, *gradients, *([under_way.token(ctx.device)] if others else []))


def _laid(cotangents: list[Tensor], complex: bool) -> list[Tensor]:
    """Their numbers in memory as they are, in loops of C; ``complex``: some may have to be conjugated first."""
    if complex:
        cotangents = [c.resolve_conj() for c in cotangents]
    return [*map(_CONTIGUOUS, map(_NEGATED, cotangents))]


def _answered(ready: Any, call: Call, saved: list[Any], arriving: list[Tensor], own: bool) -> tuple[Any, ...]:
    """What autograd is handed where nothing is left to decide."""
    gradients = ready.gradients(call, saved, arriving)
    if own and call.program.settings.watch is not None:
        call.program.look(call, ready.question, gradients, arriving)
    return (None, None, *gradients)


through = apply_alone(Boundary)
"""``Boundary.apply``, outside of ``torch.func``."""

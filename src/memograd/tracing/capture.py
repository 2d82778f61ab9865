"""Capture: a callable or ``nn.Module`` and example inputs become a functional ATen graph.

The program runs once on fake tensors under a tracer. Autograd is on, and parameters and the inputs to be differentiated
require gradients exactly as in a real training step, because programs ask (``torch.is_grad_enabled``,
``requires_grad``), because some operators refuse a target that does, and because a custom ``autograd.Function`` that
returns its input shows itself only then.

A program whose shape or control flow depends on values cannot run on fake tensors. ``concrete`` runs it on copies of
the tensors themselves; the graph is then right for these values only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from memograd._torch import (
    FAKE,
    attributes_of,
    forget_shapes,
    pytree,
    with_function_modes,
)
from memograd.draws import same_draws
from memograd.errors import CaptureError, DataDependentError, add_note
from memograd.graph.entries import Calling
from memograd.graph.graph import Graph
from memograd.tracing.checkpoints import written_again
from memograd.tracing.closures import ClosingOver, Closure, closure_of
from memograd.tracing.counters import number
from memograd.tracing.effects import Change, Effects, changes_of, effects_of, take_back
from memograd.tracing.failures import failure
from memograd.tracing.given import Given
from memograd.tracing.gradients import GradientsLeft
from memograd.tracing.guards import Guards, taken_twice
from memograd.tracing.handles import refuse_held
from memograd.tracing.histories import Hook, refuse_past_hooks
from memograd.tracing.ids import AskedIds, returned
from memograd.tracing.inputs import Inputs
from memograd.tracing.kinds.kind import Kind
from memograd.tracing.leaves import differentiable, leaf_names
from memograd.tracing.outputs import Outputs
from memograd.tracing.plainly import raised_by_pytorch
from memograd.tracing.provenance import raised_at
from memograd.tracing.reads import Reads
from memograd.tracing.registered import Registered
from memograd.tracing.remembered import refuse_ids, refuse_remembered
from memograd.tracing.templates import Templates
from memograd.tracing.tracer import Tracer
from memograd.tracing.under_way import ACTIVE, TURN, looking_away
from memograd.tracing.undisturbed import ordinary_tensors
from memograd.tracing.unseen import Shown, read
from memograd.tracing.warned import Noting
from memograd.tracing.watching import watching

_SHAPES = 20_000  # operators on shapes that PyTorch may remember: some kilobytes each


def trace(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wrt: Collection[int] | None = None,
    concrete: bool = False,
    united: bool = False,
    in_autograd: bool = False,
    itself: Collection[int] = (),
) -> Graph:
    """The graph that ``f(*args, **kwargs)`` computes.

    Args:
        f: an ``nn.Module``, or a function of tensors or pytrees of tensors. Parameters of modules that the function
            closes over are parameters of the graph. Leaves that are no tensors are baked in.
        args, kwargs: example inputs; their values do not matter, only structure, shapes, strides, dtypes, devices.
        wrt: which leaves of ``(args, kwargs)`` may be differentiated, by position. Default: those that require
            gradients, or all floating-point ones where none does.
        concrete: run on the values of the example inputs, and let them decide shapes and branches: the graph computes
            this one call. The state of PyTorch's random generators is left as it was.
        united: a tensor that is passed in several places is one tensor to the program, as it is in PyTorch, and so is
            one that the program holds itself; the graph is right then for calls in which these are one.
        in_autograd: the graph runs as a step of autograd's, and what it is given has gradients from elsewhere, too:
            hooks that the program registers on that are registered at each run (``registered.py``).
        itself: which leaves are known to be of the latter kind.

    Returns:
        A functional graph; nodes carry ``val``, ``module`` (dotted path) and ``source`` (``file:line``).

    Raises:
        DataDependentError: control flow or shapes depend on values, and ``concrete`` is false.
        CaptureError: an operator cannot be traced, or the program raised though PyTorch can run it.
        Exception: what the program raises in plain PyTorch too, with a note that says where.
    """
    FAKE.prepare()  # ahead of everything that watches what the program does and reads
    forget_shapes(_SHAPES)
    closure = Closure({"": f}, {}) if isinstance(f, nn.Module) else closure_of(f)
    one = _Capture(f, closure, concrete, united, in_autograd, itself)
    try:
        with ordinary_tensors(), looking_away(), same_draws() if concrete else nullcontext():
            graph = one.run(args, kwargs, wrt)
            held = one.held_too(args, kwargs) if united else []
            if held == [*itself] or graph.guards.taken:
                return graph
            graph.guards.run_again()
            return trace(f, args, kwargs, wrt, concrete, united, in_autograd, held)
    except CaptureError as error:
        if not hasattr(one, "reads"):
            raise  # an argument is refused: nothing has run
        taken = one.reads.states.taken
        if one.reads.counters.handed and not taken and not isinstance(error, DataDependentError):
            one.reads.counters.forget()  # something may want a number that is one
            return trace(f, args, kwargs, wrt, concrete, united, in_autograd, itself)
        if taken and (error.raised is not None or isinstance(error, DataDependentError)):
            raise CaptureError(taken_twice(taken[0])) from (error.raised or error)
        if error.raised is None or ACTIVE.tracers:  # who captures around it will run both
            raise
        refused, raised = error, error.raised
    finally:  # no circle: what the program has met is let go at once, weak references to it end
        one.tracer.lift = one.tracer.used = one.tracer.warned = None
    raise one.raised_by_pytorch(args, kwargs, wrt, raised) or refused


class _Capture:
    """One run of a program, and what it is found to be.

    Attributes:
        reads: what it reads; there is none before it runs.
    """

    reads: Reads

    def __init__(
        self,
        f: Callable[..., Any],
        closure: Closure,
        concrete: bool,
        united: bool,
        in_autograd: bool,
        itself: Collection[int],
    ) -> None:
        self.f, self.united, self.itself = f, united, itself
        self.root = f if isinstance(f, nn.Module) else ClosingOver(f, closure.modules)
        self.graph = fx.Graph()
        self.tracer = Tracer(self.graph, stops=True, concrete=concrete)
        self.tracer.registered = Registered() if in_autograd else None
        if ACTIVE.tracers:
            outer = ACTIVE.tracers[-1]
            self.tracer.turned, self.tracer.unseen = outer.turned, outer.unseen
        self.inputs = Inputs(self.tracer, closure)
        self.tracer.lift, self.tracer.used = self.inputs.lift, self.inputs.used
        self.gradients = GradientsLeft(self.inputs)
        self.roots: list[tuple[str, Any]] = [("", f)]
        self.given = Given(())
        self.changes: list[Change] = []

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Collection[int] | None) -> Graph:
        leaves, in_spec = pytree.tree_flatten((args, kwargs))
        leaves = [self.tracer.present(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        names = leaf_names(self.f, args, kwargs)
        in_notes = [attributes_of(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        wrt = differentiable(leaves) if wrt is None else wrt
        self.inputs.parameters(self.root)
        own_args, own_kwargs = pytree.tree_unflatten(self._stand_ins(leaves, names, wrt), in_spec)
        if wrt:
            self.tracer.not_asked.clear()  # no step: whoever derives the graph has chosen what by
        self.given = Given((own_args, own_kwargs))
        out_leaves, out_spec = self._trace(own_args, own_kwargs)
        self.gradients.refuse()
        out_leaves = [returned(number(x), self.tracer) for x in out_leaves]
        outputs = Outputs(self.tracer, self.inputs)
        outputs.returned(out_leaves)
        written_again(self.tracer)
        outputs.mutations()
        effects, left = self._left_behind(out_leaves)
        outputs.left(left)
        self.tracer.seeds.refuse_kept(self.changes)
        self.graph.output(tuple(outputs.nodes))
        refuse_past_hooks(self.tracer)
        calling = Calling(
            in_spec=in_spec,
            in_leaves=tuple(None if isinstance(x, torch.Tensor) else x for x in leaves),
            in_names=tuple(names),
            out_spec=out_spec,
            out_leaves=tuple(None if isinstance(x, torch.Tensor) else x for x in out_leaves),
            tensor_in=tuple(i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)),
            tensor_out=tuple(i for i, x in enumerate(out_leaves) if isinstance(x, torch.Tensor)),
            in_notes=tuple(in_notes),
            united=self.united,
        )
        inputs = tuple(replace(i, place=self.reads.found(i.tensor)) for i in self.inputs.entries)
        guards = Guards(self.reads)
        guards.told.filled = {id(holder.holder) for holder, *_ in self.changes}
        guards.by_identity = frozenset(self.tracer.others_asked)
        if self.tracer.asked_ids:
            computed = frozenset(self.tracer.computed_ids)
            guards.ask(AskedIds(tuple(self.tracer.asked_ids), *self.reads.held(), computed), self.united)
        found = [(k, self.reads.found(leaves[k])) for k in self.itself]
        guards.given = tuple([(k, place) for k, place in found if place is not None])
        return Graph(self.graph, inputs, tuple(outputs.entries), calling, guards=guards, effects=effects).verify()

    def _stand_ins(self, leaves: list[Any], names: Sequence[str], wrt: Collection[int]) -> list[Any]:
        """What the program gets for the leaves of its arguments."""
        flat = [
            self.inputs.argument(leaf, name, position in wrt) if isinstance(leaf, torch.Tensor) else leaf
            for position, (leaf, name) in enumerate(zip(leaves, names, strict=True))
        ]
        if self.united:
            first = {id(x): k for k, x in reversed([*enumerate(leaves)])}
            flat = [flat[first[id(x)]] if isinstance(x, torch.Tensor) else x for x in leaves]
            flat = [x if k in self.itself else y for k, (x, y) in enumerate(zip(leaves, flat, strict=True))]
        pairs = [(k, x, y) for k, (x, y) in enumerate(zip(leaves, flat, strict=True)) if isinstance(x, torch.Tensor)]
        self.tracer.given_ids |= {id(y): (k, id(x)) for k, x, y in reversed(pairs) if x is not y}
        for x, name in zip(leaves, names, strict=True):
            notes = attributes_of(x) if isinstance(x, torch.Tensor) else None
            self.roots += [(name, x)] if notes is None else [(f"{name}.{k}", v) for k, v in notes.items()]
        return flat

    def _left_behind(self, out_leaves: list[Any]) -> tuple[Effects, list[torch.Tensor]]:
        """What each run leaves outside of the graph, and the tensors that it is to find for that among its results."""
        self.reads.counted_up(self.changes)
        self.changes += self.inputs.frozen() + self.gradients.forgotten() + self.tracer.seeds.left()
        refuse_ids(self.changes, self.tracer, self.inputs)
        templates = Templates(self.reads, self.given, self.inputs.names, self._is_captured, self.tracer.memory_of)
        templates.hooked = self.tracer.handles
        effects = effects_of(self.changes, templates, out_leaves, self._registered(), self.tracer.warned.all)
        for node in self.graph.nodes:
            if isinstance(hook := node.target, Hook):
                refuse_held(hook.hook, hook.name, self.tracer.handles)
                if hook.looks_on:  # it is called when the graph runs
                    templates.refuse_kept(hook.hook, hook.name)
        self.gradients.refuse_retained((*out_leaves, *templates.left))
        return effects, templates.left

    def _registered(self) -> list[tuple[str, Any, Any]]:
        """The hooks that each run is to register: on which input, the hook, its handle here."""
        there = [] if self.tracer.registered is None else self.tracer.registered.standing()
        return [(self.inputs.names[id(stand_in)], hook, handle) for stand_in, hook, handle in there]

    def held_too(self, args: Any, kwargs: Any) -> list[int]:
        """Which leaves of the arguments are tensors that the program has found elsewhere, too."""
        leaves = pytree.tree_leaves((args, kwargs))
        return [k for k, x in enumerate(leaves) if isinstance(x, torch.Tensor) and self.reads.found(x) is not None]

    def _trace(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """The leaves of what the program returns, and how they are nested: as they are now, before what it has
        changed is put back."""
        ACTIVE.tracers.append(self.tracer)
        try:
            with ExitStack() as contexts:
                for context in self._contexts():
                    contexts.enter_context(context)
                out_leaves, out_spec = pytree.tree_flatten(self.root(*args, **kwargs))
                return [read(leaf) if isinstance(leaf, Shown) else leaf for leaf in out_leaves], out_spec
        except Exception as error:
            ours = failure(error, self._where(error))
            if isinstance(ours, DataDependentError):
                ours.guards = Guards(self.reads)
            if ours is error:
                raise
            raise ours from error
        finally:
            ACTIVE.tracers.pop()

    def _contexts(self) -> Iterator[AbstractContextManager[Any]]:
        """What is in force while the program runs; what comes last sees its calls first."""
        yield TURN
        yield with_function_modes()  # the caller's
        yield self._isolated()
        yield from watching(self.tracer, self.root, partial(self.gradients.asked, self.reads), self.gradients.look)
        yield self.reads.recording()

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """What the program changes is as it was afterwards."""
        self.reads = Reads(self.roots, counts=True)
        self.tracer.warned = Noting(
            lambda raises: self.reads.states.meet(warnings, Kind(lambda _: raises()), "the filters of warnings")
        )
        try:
            yield
            refuse_remembered(self.reads.remembering, self.tracer, self.inputs)
            if name := self.reads.states.left_in_scripts():
                raise CaptureError(
                    f"{name!r}, compiled by torch.jit, gives one of its attributes another tensor, which a graph "
                    "cannot; let it write in place (copy_), or use the module that it was made of"
                )
        except BaseException:
            self.reads.states.put_back()
            raise
        finally:
            self.reads.forget_ids()
            self.changes = take_back(self.reads)
            for holder, before in self.given.before:
                self.changes += changes_of(holder, before, "an argument")

    def raised_by_pytorch(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Collection[int] | None, raised: Exception
    ) -> Exception | None:
        """What PyTorch raises of the kind that was ``raised`` here, with a note that says where; None if nothing."""
        used = [i.tensor for i in self.inputs.entries if i.tensor is not None]
        wrt = differentiable(pytree.tree_leaves((args, kwargs))) if wrt is None else wrt
        own = raised_by_pytorch(self.root, args, kwargs, wrt, type(raised), used)
        note = f"memograd was capturing the program{self._where(raised)}; in plain PyTorch it raises this, too"
        if own is not None:
            add_note(own, note)
        return own

    def _where(self, error: Exception) -> str:
        source, line = raised_at(error)
        module = self.tracer.modules.failed
        place = f" at {source} ({line})" if line else ""
        return f"{f' in module {module!r}' if module else ''}{place}"

    def _is_captured(self, tensor: torch.Tensor) -> bool:
        """Whether the program has computed ``tensor``."""
        return self.tracer.knows(tensor) and id(tensor) not in self.inputs.users

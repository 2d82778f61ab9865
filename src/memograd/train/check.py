"""When a step is compared with PyTorch, on how much of the batch, and what is said when it cannot be.

PyTorch's own run needs memory that a step within a budget has promised not to take: then a slice of the batch is
compared, in a graph of its own. Any slice will do, whatever the loss does with the samples, since both sides see the
same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd._torch import modes_of_others, pytree
from memograd.cautions import caution
from memograd.errors import GraphError, with_notes
from memograd.graph.graph import Graph
from memograd.graph.printing import flat_function
from memograd.run.choose import Choice
from memograd.tracing.undisturbed import Generators
from memograd.train.build import Training, differentiated
from memograd.train.comparison import Comparison, compared_update
from memograd.train.program import Origin, Program, detached
from memograd.witness.agreement import Results
from memograd.witness.trial import Trial

_SLACK = 0.8  # of the room there is: PyTorch's own peak is known only roughly
_WHENS = ("first", "never", "always")


class UncheckedError(Exception):
    """Why a step cannot be compared."""


class Check:
    """Compares the programs of a training step with PyTorch.

    Attributes:
        when: ``first`` (the first time a program runs), ``never`` or ``always`` (at every step).
        reason: how the last comparison came out, or why there was none.
    """

    def __init__(self, training: Training, when: str) -> None:
        if when not in _WHENS:
            raise GraphError(f"check must be one of {', '.join(map(repr, _WHENS))}, got {when!r}")
        self.training = training
        self.objective = training.objective
        self.when = when
        self.reason = "not compared: check='never'" if when == "never" else "no step was run yet"
        self._passed: set[Any] = set()
        self._warned = False

    def new(self, program: Program) -> None:
        """A program was made. One that differentiates the same graph as another, and differs in the optimizer's
        settings, is not compared again."""
        assert program.origin is not None
        joint = program.origin.joint
        inputs = tuple((i.name, n.meta["val"].shape) for i, n in zip(joint.inputs, joint.placeholders, strict=True))
        text = flat_function("joint", list(joint.placeholders), joint.nodes, list(joint.results))
        key = (text, inputs, modes_of_others()) if self.when == "first" else None
        if self.when == "never" or key in self._passed:
            program.origin = None
        elif key is not None:
            self._passed.add(key)

    def __call__(
        self, program: Program, flat: list[Any], batch: tuple[Any, ...], options: dict[str, Any]
    ) -> Sequence[torch.Tensor] | None:
        """Compare; returns what the program computed, still to be written, or None where it did not run.

        Raises:
            GradientMismatchError: it differs by more than rounding; everything is as before the call.
        """
        origin = program.origin
        assert origin is not None
        results = None
        try:
            results = self._compare(program, flat, batch, options)
        except UncheckedError as why:
            self._say(str(why))
        except BaseException:
            origin.undo(self.training.optimizer)
            self._passed.clear()
            raise
        if self.when == "first":
            program.origin = None
        origin.drawn = None  # the next comparison is one of another step
        return results

    def update(self, graph: Graph, choice: Choice, flat: list[Any]) -> Sequence[torch.Tensor] | None:
        """Compare an update by itself; returns what it computes, or None where it did not run.

        Raises:
            GradientMismatchError: it is not what PyTorch computes; no parameter was overwritten.
        """
        plan = choice.backend.plan
        if self.when == "never":
            return None
        if plan is not None and plan.unplanned_bytes + _written(graph) > plan.budget:
            self.reason += "; the update of several batches was not compared: the memory budget leaves no room"
            return None
        return compared_update(graph, choice, flat, self.training)

    def _say(self, why: str) -> None:
        self.reason = f"not compared: {why}"
        if not self._warned:
            self._warned = True
            caution(f"a step was not compared with torch.autograd: {why}")

    def _compare(
        self, program: Program, flat: list[Any], batch: tuple[Any, ...], options: dict[str, Any]
    ) -> Sequence[torch.Tensor] | None:
        origin = program.origin
        assert origin is not None
        if unknown := origin.joint.guards.unknown:
            raise UncheckedError(f"each run of the model finds something else in {unknown!r}")
        samples = _samples(batch, options)
        rows = _affordable(program, origin.joint, samples, bool(self.training.refinements.clip))
        while True:
            try:
                if rows is None:
                    return self._whole(program, origin, flat, batch, options)
                self._slice(origin, batch, options, rows, samples)
                return None
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _no_memory(error):
                    raise
            rows = (samples if rows is None else rows) // 4
            if not rows:
                raise UncheckedError("there is no memory for PyTorch's own run")

    def _whole(
        self, program: Program, origin: Origin, flat: list[Any], batch: tuple[Any, ...], options: dict[str, Any]
    ) -> Sequence[torch.Tensor]:
        own = detached(origin.joint.bind(batch, options))
        drawn = origin.drawn or Generators(self.objective)
        trial = Trial(self.objective, batch, options, origin.forward, origin.joint, own, drawn)
        theirs = _theirs(trial)
        results = Comparison(program, trial, flat, self.training).results(theirs)
        self.reason = f"agrees with torch.autograd: {_counted(theirs)}"
        return results

    def _slice(self, origin: Origin, batch: tuple[Any, ...], options: dict[str, Any], rows: int, samples: int) -> None:
        """Compare the gradients on the first ``rows`` samples."""

        def part_of(t: torch.Tensor) -> torch.Tensor:
            return t[: rows * (len(t) // samples)] if t.dim() and len(t) % samples == 0 else t

        batch, options = pytree.tree_map_only(torch.Tensor, part_of, (batch, options))
        now, drawn = Generators(self.objective), origin.drawn or Generators(self.objective)
        drawn.put_back_others()
        try:
            forward, joint = self._of_part(batch, options)
            own = detached(joint.bind(batch, options))
            trial = Trial(self.objective, batch, options, forward, joint, own, drawn)
            theirs = _theirs(trial)
            trial.demand(trial.ours(), theirs)
        finally:
            now.put_back_others()
        part = f"{rows} of {samples} samples, for which there is room; the plan itself was not run beside it"
        self.reason = f"agrees with torch.autograd: {_counted(theirs)} of {part}"

    def _of_part(self, batch: tuple[Any, ...], options: dict[str, Any]) -> tuple[Graph, Graph]:
        try:
            return differentiated(self.objective, self.training.optimizer, batch, options)
        except Exception as error:  # of PyTorch's too: a model that takes batches of one size only
            if _no_memory(error):
                raise
            text = f"no room for the whole batch, and a part cannot be captured: {with_notes(error)}"
            raise UncheckedError(text) from error


def _theirs(trial: Trial) -> Results:
    try:
        return trial.theirs()
    except Exception as error:
        if _no_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "")
        raise UncheckedError(f"PyTorch cannot run it: {type(error).__name__}: {first}") from error


def _counted(theirs: Results) -> str:
    count = sum(g is not None for g in theirs.gradients.values())
    return f"the loss and {count} gradient{'s' * (count != 1)}"


def _samples(batch: tuple[Any, ...], options: dict[str, Any]) -> int:
    """The first dimension of the first tensor."""
    tensors = [t for t in pytree.tree_leaves((batch, options)) if isinstance(t, torch.Tensor) and t.dim()]
    return len(tensors[0]) if tensors else 1


def _affordable(program: Program, joint: Graph, samples: int, clips: bool) -> int | None:
    """How many samples a comparison has room for within the step's budget; None for all of them."""
    plan = program.choice.backend.plan
    if plan is None or not samples:
        return None
    gradients = sum(_bytes(joint.results[i].meta["val"]) for i in joint.positions("gradient"))
    copies = sum(_bytes(i.bound) for i in joint.inputs if i.bound is not None)
    twins = _written(program.graph)
    gradients *= 2 if clips else 1  # PyTorch's clipping has copies of its own
    if plan.unplanned_bytes + copies + twins + 2 * gradients <= plan.budget:
        return None
    resident = plan.problem.resident
    room = plan.budget - resident - copies - 2 * gradients
    each = max(1.0, (plan.unplanned_bytes - resident) / samples)
    rows = min(samples, int(_SLACK * room / each))
    if rows < 1:
        raise UncheckedError(f"the memory budget of {plan.budget} bytes leaves no room for PyTorch's own run")
    return rows


def _written(graph: Graph) -> int:
    """Bytes of what a graph writes to."""
    written = [graph.outputs[i].name for i in graph.positions("mutation")]
    return sum(_bytes(graph.placeholder(name).meta["val"]) for name in written)


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()


def _no_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

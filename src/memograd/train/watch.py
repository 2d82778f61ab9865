"""The trip-wire of a training step: a step whose loss or gradients are not finite writes nothing, and says why.

The flag is one more result of the graph, computed from the loss and all gradients before anything is overwritten
(``appended.watched``). On the CPU it is read with the results. On an accelerator nobody waits for it: the device itself
leaves everything as it is from that step on (``finite.Guard``), and the next call says so.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import Any, Never

import torch

from memograd.doctor.nan.examine import Step, examine
from memograd.draws import set_rng_state
from memograd.errors import NonFiniteError
from memograd.finite import TrippedError
from memograd.train.build import Training
from memograd.train.program import Program, detached, put_back

Tensor = torch.Tensor
_TRAIL = 16  # losses of former steps, to see how they grow
_LATE = 1  # steps that may be under way when the next one begins


class Watch:
    """What is remembered of the last steps, for who asks why one of them is not finite."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.steps = 0
        self.trail: deque[Tensor] = deque(maxlen=_TRAIL)
        self._under_way: deque[tuple[int, Program, list[Any], list[tuple[Tensor, str]]]] = deque(maxlen=_LATE + 3)

    def done(self, program: Program, loss: Tensor) -> None:
        """A step has been run."""
        if program.begun is not None:
            self._under_way.append((self.steps, program, *program.begun))
            program.begun = None
        self.steps += 1
        self.trail.append(loss)

    def run(self, program: Program, flat: list[Any], steps: int) -> Tensor:
        """Many steps at once, which draw nothing."""
        try:
            losses = program.choice.backend.run(flat, steps)
        except TrippedError as error:
            error.program, error.flat = program, flat
            self.steps += error.done
            self.tripped(error)
        self.steps += steps
        self.trail.extend(losses[-_TRAIL:])
        program.state_before = None
        return losses

    def settle(self, late: int = 0) -> None:
        """Raises NonFiniteError where one of the steps under way was not finite, but for the last ``late`` of them,
        where that is not known yet."""
        if not self._under_way:
            return
        guards = {id(g): g for _, p, _, _ in self._under_way if (g := p.choice.backend.guard) is not None}
        for guard in guards.values():
            first = guard.tripped(late)
            if first is not None:
                back = guard.steps - first
                ran = [step for step in self._under_way if step[1].choice.backend.guard is guard]
                number, program, flat, drawn = ran[max(0, len(ran) - 1 - back)]
                self._under_way.clear()
                for state, device in drawn:
                    set_rng_state(state, device)
                self._raise(program, flat, number)
        self._forget({key: guard.pending for key, guard in guards.items()})

    def _forget(self, pending: dict[int, int]) -> None:
        """Of the steps under way keep those of which it is not known yet whether they were finite: their batches."""
        under_way = list(self._under_way)
        self._under_way.clear()
        for step in reversed(under_way):
            guard = id(step[1].choice.backend.guard)
            if pending.get(guard, 0) > 0:
                pending[guard] -= 1
                self._under_way.appendleft(step)

    def tripped(self, error: TrippedError) -> Never:
        """Raise NonFiniteError for the step that ended so."""
        program: Any = error.program
        if program.state_before is not None and not error.done:  # its first step: the optimizer had no state then
            put_back(self.training.optimizer, program.state_before)
        self._raise(program, list(error.flat), self.steps)

    def _raise(self, program: Program, flat: list[Any], number: int) -> Never:
        assert program.watched is not None
        forward, joint = program.watched
        contents = {i.name: t for i, t in zip(program.graph.inputs, flat, strict=True)}
        own = detached([contents.get(i.name, i.bound) for i in joint.inputs])
        trail = [float(loss) for loss in list(self.trail)[: len(self.trail) - (self.steps - number)]]
        names = _names(self.training.objective)
        backend = program.choice.backend.name
        step = Step(forward, joint, own, number=number, trail=trail, root="model", backend=backend, names=names)
        report = examine(step)
        raise NonFiniteError(str(report), report) from None


def _names(objective: Any) -> dict[str, str]:
    """What the user calls the parts of a batch: as the model's forward does, and the last one the target."""
    try:
        parameters = [*inspect.signature(objective.model.forward).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names: list[str] = [*named, *(["target"] if objective.criterion else [])]
    return {f"arg{k}": name for k, name in enumerate(names)}

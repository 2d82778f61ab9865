"""One training step as one graph: forward, loss, backward and update."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn, optim

from memograd._torch import has_hooks, module_hooks
from memograd.errors import GradientMismatchError, GraphError
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.pipeline import plan
from memograd.run.choose import Choice, choose, choose_planned
from memograd.tracing.reuse import Recent
from memograd.tracing.states import States
from memograd.tracing.undisturbed import Generators
from memograd.train.check import Check
from memograd.train.decisions import Programs
from memograd.train.objective import Objective
from memograd.train.program import Program, Updates, build, geometry, settings


class TrainStep:
    """Forward, loss, backward and update of one batch in one call.

    Args:
        model: any ``nn.Module``; trained in place.
        criterion: ``criterion(model(*inputs), target) -> scalar``; None when the model returns its loss.
        optimizer: a ``torch.optim`` optimizer. SGD, Adam and AdamW become part of the graph; any other one is called
            on our gradients. Its state stays in ``optimizer.state``.
        memory_budget: the most bytes of tensors alive at any moment of a step: parameters, buffers, the batch,
            activations, gradients, optimizer state and operators' workspace. Bytes, "8GiB", "600MB", "50%" of what
            the step needs without a budget (of the largest step so far, if batches differ), or a ``Plan`` made for
            this step. What does not fit is computed again; results are bit-identical to those of the eager backend
            (``inductor``: to those of the same kernels with more memory). An optimizer outside the graph (see above)
            allocates on its own, beyond the budget.
        backend: ``auto`` (measures eager and native once), ``eager``, ``native`` or ``inductor``. Within a memory
            budget ``inductor`` compiles fused kernels one by one, which the plan keeps or computes again; the others
            run operator by operator (``eager``).
        check: ``first``: before a program writes anything for the first time, its loss, gradients and new values are
            compared with those of ``torch.autograd`` and of PyTorch's optimizer on the same batch, which costs two to
            three plain steps; ``always``: at every step; ``never``. ``check_reason`` says how it came out.

    A model that looks at values (``if loss > 1``, ``x[mask]``, ``.item()``) is captured on those of the batch, and
    again when it sees other ones; ``captures`` says how often and why. A number that differs at each step (a running
    mean by ``.item()``) means a capture at each step.

    Raises:
        GraphError: the model has no parameters to train, or the optimizer holds none of them.
        BudgetInfeasibleError: at the first step: no schedule fits the budget.
        GradientMismatchError: at a step that is compared: it differs from PyTorch's by more than rounding. Nothing
            was overwritten then.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        optimizer: optim.Optimizer,
        memory_budget: int | str | Plan | None = None,
        backend: str = "auto",
        check: Literal["first", "never", "always"] = "first",
    ) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.objective = Objective(model, criterion)
        parameters = list(self.objective.parameters())
        if not parameters:
            raise GraphError(f"{type(model).__name__} has no parameters: there is nothing to train")
        if not any(id(p) in trained and p.requires_grad for p in parameters):
            raise GraphError(
                "the optimizer holds no trainable parameter of this model; build it with model.parameters()"
            )
        self.model = model
        self.optimizer = optimizer
        self.backend = backend
        self.memory_budget = memory_budget
        self._allowed = 0  # bytes that "50%" meant for the largest step so far: a last, smaller batch may have them too
        self._hooks = module_hooks(self.objective)
        self._parameters = parameters
        self._rates: list[torch.Tensor] = []  # of each group of the optimizer
        self._seen_rates: list[Any] = []
        self._check = Check(self.objective, optimizer, check)
        self._programs: dict[Any, Programs] = Recent()
        self._updates = Updates.of(optimizer)
        self.captures: list[str] = []  # why the model was captured, each time
        self._last: Program | None = None
        self._turn = threading.RLock()  # a step is one update, whoever else calls it

    def __call__(self, *batch: Any, **options: Any) -> torch.Tensor:
        """One step on ``(*inputs, target)``; returns the loss before the update (0-dim, detached)."""
        with self._turn:
            return self._step(*self._ready(batch, options), batch, options)

    def _step(self, programs: Programs, fresh: bool, batch: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
        program, kept = programs.step(
            batch,
            options,
            fresh,
            build=lambda why: self._build(batch, options, why, True),
            compare=lambda program, flat: self._compare(program, flat, batch, options),
        )
        self._last = program
        if program.gradients:
            self._outside(program, kept)
        return kept[0]

    def run(self, *batch: Any, steps: int, **options: Any) -> torch.Tensor:
        """``steps`` steps on one batch; returns the loss of each, shape ``[steps]``.

        The native backend does not return to Python in between.
        """
        if steps < 1:
            raise GraphError(f"steps must be at least 1, got {steps}")
        with self._turn:
            programs, fresh = self._ready(batch, options)
            self._last = program = programs.all[0]
            by_itself = not (program.gradients or program.decisions or program.graph.effects)
            if not by_itself or program.graph.guards.volatile or self._check.when == "always":
                first = self._step(programs, fresh, batch, options)
                return torch.stack([first, *(self(*batch, **options) for _ in range(steps - 1))])
            flat, generators = program.flat(batch, options), Generators()
            if self._compare(program, flat, batch, options) is not None:
                generators.put_back()
            return program.choice.backend.run(flat, steps)

    @property
    def graph(self) -> Graph:
        """The graph of the step last run."""
        return self._required().graph

    @property
    def backend_name(self) -> str:
        """The backend of the step last run."""
        return self._required().choice.backend.name

    @property
    def backend_reason(self) -> str:
        """Why that backend."""
        return self._required().choice.reason

    @property
    def check_reason(self) -> str:
        """How the last comparison with ``torch.autograd`` came out, or why there was none."""
        return self._check.reason

    @property
    def plan(self) -> Plan | None:
        """The memory plan of the step last run; None without a budget."""
        return getattr(self._required().choice.backend, "plan", None)

    def _required(self) -> Program:
        if self._last is None:
            raise GraphError("no step was run yet")
        return self._last

    # -- making and finding programs -----------------------------------------------------------------------------

    def _ready(self, batch: tuple[Any, ...], options: dict[str, Any]) -> tuple[Programs, bool]:
        """The programs for this batch, and whether the first of them was made just now."""
        self._follow_rates()
        key = self._key(batch, options)
        programs = self._programs.get(key)
        if programs is None:
            programs = self._programs[key] = Programs()
            why = "a batch or a setting unlike those before" if self.captures else "the first step"
        else:
            programs.drop_stale(self.optimizer, self._updates.alike)
            if programs.holding():
                return programs, False
            why = "the model or the optimizer's state is elsewhere in memory, or steps began to update other parameters"
            if programs.all:
                why = f"{programs.all[0].graph.guards.changed()} is not what it was"
        programs.add(self._build(batch, options, why))
        return programs, True

    def _key(self, batch: tuple[Any, ...], options: dict[str, Any]) -> Any:
        hooked = tuple([has_hooks(p) for p in self._parameters])
        hooks = tuple([tuple(table) for table in self._hooks if table])
        return (geometry(batch, options), hooked, hooks, settings(self.optimizer))

    def _follow_rates(self) -> None:
        for k, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if k == len(self._rates):
                self._rates.append(_rate(rate))
                self._seen_rates.append(rate)
            elif isinstance(rate, torch.Tensor):
                self._rates[k].copy_(rate.detach().reshape(()))  # schedulers change it in place
            elif rate is not self._seen_rates[k]:
                self._rates[k].fill_(float(rate))
            self._seen_rates[k] = rate

    def _build(self, batch: tuple[Any, ...], options: dict[str, Any], why: str, concrete: bool = False) -> Program:
        def capture(concrete: bool) -> Program:
            share = self._updates.alike
            return build(self.objective, self.optimizer, self._rates, batch, options, self._choose, concrete, share)

        before = States()
        program = capture(concrete)
        self.captures.append(why)
        if self._updates.alike and not self._updates.note(program.updated):
            before.put_back()
            program.graph.guards.run_again()
            program = capture(bool(program.decisions))
        self._check.new(program)
        return program

    def _compare(
        self, program: Program, flat: list[Any], batch: tuple[Any, ...], options: dict[str, Any]
    ) -> Sequence[torch.Tensor] | None:
        """What the program computes, if it was due to be compared; one that fails is made anew next time."""
        if program.origin is None:
            return None
        try:
            return self._check(program, flat, batch, options)
        except GradientMismatchError:
            for programs in self._programs.values():
                programs.all = [other for other in programs.all if other is not program]
            raise

    def _choose(self, graph: Graph, flat: list[Any]) -> Choice:
        if self.memory_budget is None:
            return choose(graph, flat, self.backend)
        made = plan(graph, self.memory_budget, self._allowed, fused=self.backend == "inductor")
        self._allowed = max(self._allowed, made.budget)
        return choose_planned(graph, made, self.backend)

    def _outside(self, program: Program, kept: list[torch.Tensor]) -> None:
        """Call the user's optimizer on our gradients; parameters without one get None, as autograd leaves them."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, position in reversed(program.gradients):  # the last layers first, as a backward pass has them
            if has_hooks(parameter):
                torch.autograd.backward([parameter], [kept[position]])  # hands a leaf its gradient, and runs its hooks
            else:
                parameter.grad = kept[position]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _rate(rate: float | torch.Tensor) -> torch.Tensor:
    """The graph's learning rate, on the device of a rate that is a tensor: reading it waits for no device then."""
    return torch.tensor(float(rate), dtype=torch.float64, device=getattr(rate, "device", None))

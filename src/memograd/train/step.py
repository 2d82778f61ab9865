"""One training step as one graph: forward, loss, backward and update."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn, optim

from memograd.draws import same_draws
from memograd.errors import GraphError
from memograd.finite import TrippedError
from memograd.memory.plan import Plan
from memograd.tracing.undisturbed import outside_inference_mode
from memograd.train import outside
from memograd.train.answers import Answers
from memograd.train.arguments import at_least_one, refuse_criterion, refuse_model, refuse_no_optimizer
from memograd.train.build import Training
from memograd.train.carried import Carried
from memograd.train.check import Check
from memograd.train.chooser import Chooser
from memograd.train.counters import Updates
from memograd.train.decisions import Programs
from memograd.train.finish import Finish
from memograd.train.objective import Objective
from memograd.train.program import Program
from memograd.train.program_cache import ProgramCache
from memograd.train.rates import Rates
from memograd.train.refinements import Clip, Refinements
from memograd.train.update import refuse
from memograd.train.watch import Watch


class TrainStep(Answers):
    """Forward, loss, backward and update of one batch in one call.

    Args:
        model: any ``nn.Module``; trained in place.
        criterion: ``criterion(model(*inputs), target) -> scalar``; None when the model returns its loss. Either may
            return more: the loss is its ``.loss``, what a dict has as ``"loss"``, or the first tensor.
        optimizer: a ``torch.optim`` optimizer. SGD, Adam, AdamW, Adagrad, RMSprop, Adamax, NAdam, RAdam and those that
            ``mg.update_rule`` has entered become part of the graph; any other one is called on our gradients, and
            ``backend_reason`` says so. Its state stays in ``optimizer.state``.
        memory_budget: the most bytes of tensors alive at any moment of a step: parameters, buffers, the batch,
            activations, gradients, optimizer state and operators' workspace. Bytes, "8GiB", "600MB", "50%" of what
            the step needs without a budget (of the largest step so far, if batches differ), or a ``Plan`` made for
            this step. What does not fit is computed again; results are bit-identical to those of the eager backend
            (``inductor``: to those of the same kernels with more memory). An optimizer outside the graph (see above)
            allocates on its own, beyond the budget.
        backend: ``auto`` (the fastest of eager, convolutions, native and, given ``compile_seconds``, inductor; see
            ``backend_reason``), ``eager``, ``convolutions``, ``native`` or ``inductor``. Within a memory budget
            ``inductor`` compiles fused kernels one by one, which the plan keeps or computes again; the others run
            operator by operator (``eager``).
        check: ``first``: before a program writes anything for the first time, its loss, gradients and new values are
            compared with those of ``torch.autograd`` and of PyTorch's optimizer on the same batch, which costs two to
            three plain steps; ``always``: at every step; ``never``. ``check_reason`` says how it came out.
        clip_grad_norm, clip_grad_value, norm_type: clip the gradients of the optimizer's parameters as
            ``torch.nn.utils`` does: each element by value, then all of them by their norm; ``grad_norm`` is what it
            was.
        accumulate: batches to an update, which has the mean of their gradients, as ``(loss / accumulate).backward()``
            gives it. The calls in between change no parameter; ``finish()`` updates with fewer.
        ema_decay: average the parameters at each update, as ``AveragedModel`` with ``get_ema_multi_avg_fn`` does; see
            ``ema_state_dict`` and ``averaged``.
        autocast: ``torch.bfloat16`` runs the forward pass under ``torch.autocast``.
        compile_seconds: what compiling fused kernels may cost with ``backend="auto"``: as long as it took the last
            time, or is estimated to take. What was measured is kept on disk, for this step on this machine.
        watch: a step whose loss or gradients are not finite writes nothing and raises ``NonFiniteError``, whose
            ``report`` says which operator or rule did it, on which line, why, and what helps. On an accelerator nobody
            waits for that: the next call raises, or ``settle()``.

    A model that looks at values (``if loss > 1``, ``x[mask]``, ``.item()``) is captured on those of the batch, and
    again when it sees other ones; ``captures`` says how often and why. A number that differs at each step (a running
    mean by ``.item()``) means a capture at each step.

    Raises:
        GraphError: the model has no parameters to train, or the optimizer holds none of them, or needs a closure
            (LBFGS) or sparse gradients.
        BudgetInfeasibleError: at the first step: no schedule fits the budget.
        GradientMismatchError: at a step that is compared: it differs from PyTorch's by more than rounding. Nothing
            was overwritten then.
        NonFiniteError: with ``watch=True``: a loss or a gradient is NaN or infinite. Nothing was overwritten.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        optimizer: optim.Optimizer,
        memory_budget: int | str | Plan | None = None,
        backend: str = "auto",
        check: Literal["first", "never", "always"] = "first",
        *,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        norm_type: float = 2.0,
        accumulate: int = 1,
        ema_decay: float | None = None,
        autocast: torch.dtype | None = None,
        watch: bool = False,
        compile_seconds: float = 0.0,
    ) -> None:
        clip = Clip(clip_grad_norm, norm_type, clip_grad_value)
        self._refinements = Refinements(clip, accumulate, ema_decay, autocast)
        refuse_model(model)
        refuse_criterion(criterion)
        refuse_no_optimizer(optimizer)
        refuse(optimizer)
        self.objective = Objective(model, criterion)
        self._parameters = _parameters(self.objective, optimizer)
        self.model = model
        self.optimizer = optimizer
        self._chooser = Chooser(backend, memory_budget, compile_seconds)
        self._rates = Rates(optimizer)
        self._carried = Carried(self.objective, model, self._refinements)
        self._training = Training(self.objective, optimizer, self._rates, self._refinements, self._carried, watch)
        self._check = Check(self._training, check)
        self._updates = Updates.of(optimizer)
        self._cache = ProgramCache(self._training, self._check, self._chooser, self._updates)
        self._update = Finish(self._training, self._check, self._updates)
        self._last: Program | None = None
        self._watch = Watch(self._training) if watch else None
        self._turn = threading.RLock()  # a step is one update, whoever else calls it

    @outside_inference_mode
    def __call__(self, *batch: Any, **options: Any) -> torch.Tensor:
        """One step on ``(*inputs, target)``; returns the loss before the update (0-dim, detached)."""
        with self._turn:
            with self.precision():
                programs, fresh = self._ready(batch, options)
            return self._step(programs, fresh, batch, options)

    def _step(self, programs: Programs, fresh: bool, batch: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
        self._settle(1)
        try:
            with self.precision():
                program, results = programs.step(
                    batch,
                    options,
                    fresh,
                    build=lambda why: self._cache.build(batch, options, why, concrete=True),
                    compare=lambda program, flat: self._cache.compare(program, flat, batch, options),
                )
        except TrippedError as error:
            assert self._watch is not None
            self._watch.tripped(error)
        if program.share:
            self._updates.ran(self.optimizer, fresh or program is not self._last)
        self._last = program
        if self._watch is not None:
            self._watch.done(program, results[0])
        if self._training.gathers:
            self._update.gather(program, results, (batch, options))
            if self._carried.batches >= self._refinements.accumulate:
                self.finish()
        elif program.gradients:
            outside.update(self._training, program, results)
        else:
            self._carried.norm = program.norm
            self._carried.updated()
        return results[0]

    @outside_inference_mode
    def run(self, *batch: Any, steps: int, **options: Any) -> torch.Tensor:
        """``steps`` steps on one batch; returns the loss of each, shape ``[steps]``.

        The native backend does not return to Python in between.
        """
        steps = at_least_one(steps, "steps")
        with self._turn, self.precision():
            programs, fresh = self._ready(batch, options)
            program, before = programs.all[0], self._last
            self._last = program
            by_itself = not (program.gradients or program.decisions or program.graph.effects or program.gathers)
            by_itself &= not (program.watched and (program.devices or program.is_read_late))
            if not by_itself or program.graph.guards.volatile or self._check.when == "always" or self._carried.averages:
                first = self._step(programs, fresh, batch, options)
                return torch.stack([first, *(self(*batch, **options) for _ in range(steps - 1))])
            flat = program.flat(batch, options)
            with same_draws() if program.devices else nullcontext():  # the steps that follow draw that, too
                self._cache.compare(program, flat, batch, options)
            self._carried.norm = program.norm
            try:
                if self._watch is None:
                    return program.choice.backend.run(flat, steps)
                return self._watch.run(program, flat, steps)
            finally:
                if program.share:
                    self._updates.ran(self.optimizer, fresh or program is not before)

    def _ready(self, batch: tuple[Any, ...], options: dict[str, Any]) -> tuple[Programs, bool]:
        """The programs for this batch, and whether the first of them was captured just now."""
        if self._carried.swapped:
            raise GraphError("the model has its averaged weights now: train outside of the `with step.averaged()`")
        self._rates.follow()
        self._updates.look()
        return self._cache.ready(batch, options)

    def _settle(self, late: int = 0) -> None:
        if self._watch is not None:
            self._watch.settle(late)

    def settle(self) -> None:
        """Wait until it is known whether all steps so far were finite, where that is watched.

        Raises:
            NonFiniteError: one was not; everything is as it was before it.
        """
        with self._turn:
            self._settle()

    @outside_inference_mode
    def finish(self) -> None:
        """Update now with the batches gathered so far, if there are any: the last ones of an epoch may be fewer than
        ``accumulate``."""
        with self._turn:
            if self._carried.batches:
                self._settle()
                self._rates.follow()
                self._updates.look()
                self._update(self._chooser.for_update)

    def averaged(self) -> AbstractContextManager[None]:
        """``with step.averaged(): ...``: the model has its averaged weights inside, to be evaluated or saved.

        Raises:
            GraphError: the step averages none.
        """
        return self._carried.in_the_model()

    def precision(self) -> AbstractContextManager[Any]:
        """``with step.precision(): ...``: what runs inside is computed as the forward pass is (``autocast``)."""
        return self._refinements.precision(self._parameters[0].device)

    def ema_state_dict(self) -> dict[str, Any]:
        """The model's ``state_dict`` with the averages of its parameters in their place; buffers are those it has now.
        Like a ``state_dict`` it holds the tensors themselves, which the next step changes.

        Raises:
            GraphError: the step averages none.
        """
        return self._carried.averaged_state()

    def state_dict(self) -> dict[str, Any]:
        """What goes on from step to step and is neither the model's nor the optimizer's: averaged weights, gradients
        gathered so far."""
        return self._carried.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()`` of a step like this one. Load the model's and the optimizer's first.

        Raises:
            DataError: it is of another model; nothing has changed then.
        """
        self._carried.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is pickled, has a model and an optimizer of its own, for which programs are made anew."""
        with self._turn:
            self._settle()
            clip, refinements = self._refinements.clip, self._refinements
            made_of = {"model": self.model, "criterion": self.objective.criterion, "optimizer": self.optimizer}
            made_of |= {"memory_budget": self.memory_budget, "backend": self.backend, "check": self._check.when}
            made_of |= {"clip_grad_norm": clip.norm, "norm_type": clip.norm_type, "clip_grad_value": clip.value}
            made_of |= {"accumulate": refinements.accumulate, "ema_decay": refinements.ema_decay}
            made_of |= {"autocast": refinements.autocast, "watch": self._watch is not None}
            made_of |= {"compile_seconds": self._chooser.compile_seconds}
            return {"made_of": made_of, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["made_of"])
        self.load_state_dict(state["state"])

    def keep_backend(self, name: str | None = None) -> None:
        """``auto`` has chosen: whatever is captured from now on runs on the backend of the step last run, or of the run
        that is resumed (``name``), which so computes the same to the last bit."""
        self._chooser.backend = name or self.backend_name


def _parameters(objective: Objective, optimizer: optim.Optimizer) -> list[nn.Parameter]:
    """The model's, some of which ``optimizer`` trains.

    Raises:
        GraphError: there are none, or it trains none of them.
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = list(objective.parameters())
    if not parameters:
        raise GraphError(f"{type(objective.model).__name__} has no parameters: there is nothing to train")
    if not any(id(p) in trained and p.requires_grad for p in parameters):
        raise GraphError("the optimizer holds no trainable parameter of this model; build it with model.parameters()")
    return parameters

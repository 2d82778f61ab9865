"""One training step as one graph: forward, loss, backward and update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, optim

from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.pipeline import capture_for, differentiate, plan, simplify
from memograd.run.choose import Choice, choose, choose_planned
from memograd.tracing.reuse import SIMPLE, Recent, ambient, signature
from memograd.train.update import Update, why_not


class Objective(nn.Module):
    """(inputs..., target) -> loss. With no criterion the model returns the loss (or something with ``.loss``)."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *batch: Any, **options: Any) -> Any:
        if self.criterion is not None:
            return self.criterion(self.model(*batch[:-1], **options), batch[-1])
        out = self.model(*batch, **options)
        return getattr(out, "loss", out)


@dataclass
class _Program:
    """The compiled step for one input signature."""

    graph: Graph
    choice: Choice
    bound: list[Any]  # the flat inputs, detached; None where the batch goes
    owners: list[tuple[torch.Tensor, int]]  # whose memory they are, and its address
    slots: list[int]  # positions of the batch in it
    state: list[tuple[torch.Tensor, str, torch.Tensor]]  # optimizer state the graph is bound to
    gradients: list[tuple[nn.Parameter, int]]  # for an optimizer outside the graph: where each gradient is


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

    Raises:
        GraphError: the model has no parameters to train, or the optimizer holds none of them.
        BudgetInfeasibleError: at the first step: no schedule fits the budget.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        optimizer: optim.Optimizer,
        memory_budget: int | str | Plan | None = None,
        backend: str = "auto",
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
        # what a forward may branch on (train or eval, a dropout's p) is baked into the graph, so it is part of the key
        self._attributes = [
            (vars(m), name)
            for m in self.objective.modules()
            for name, value in vars(m).items()
            if isinstance(value, SIMPLE) and not name.startswith("_")
        ]
        self._parameters = parameters
        self._rates = [torch.tensor(float(g["lr"]), dtype=torch.float64) for g in optimizer.param_groups]
        self._seen_rates = [float(g["lr"]) for g in optimizer.param_groups]
        self._programs: dict[Any, _Program] = Recent()
        self._last: _Program | None = None

    def __call__(self, *batch: Any, **options: Any) -> torch.Tensor:
        """One step on ``(*inputs, target)``; returns the loss before the update (0-dim, detached)."""
        program, flat = self._ready(batch, options)
        kept = program.choice.backend.step(flat)
        if program.gradients:
            self._outside(program, kept)
        return kept[0]

    def run(self, *batch: Any, steps: int, **options: Any) -> torch.Tensor:
        """``steps`` steps on one batch; returns the loss of each, shape ``[steps]``.

        The native backend does not return to Python in between.
        """
        if steps < 1:
            raise GraphError(f"steps must be at least 1, got {steps}")
        program, flat = self._ready(batch, options)
        if program.gradients:
            return torch.stack([self(*batch, **options) for _ in range(steps)])
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
    def plan(self) -> Plan | None:
        """The memory plan of the step last run; None without a budget."""
        return getattr(self._required().choice.backend, "plan", None)

    def _required(self) -> _Program:
        if self._last is None:
            raise GraphError("no step was run yet")
        return self._last

    # -- making and finding programs -----------------------------------------------------------------------------

    def _ready(self, batch: tuple[Any, ...], options: dict[str, Any]) -> tuple[_Program, list[Any]]:
        key = self._key(batch, options)
        program = self._programs.get(key)
        if program is not None:
            held = self.optimizer.state
            if any(p not in held or held[p].get(k) is not t for p, k, t in program.state):
                program = None  # load_state_dict put new tensors in place
            elif any(owner.data_ptr() != address for owner, address in program.owners):
                program = None  # the model was moved, or a parameter's .data replaced
        if program is None:
            program = self._programs[key] = self._build(batch, options)
        self._last = program
        self._follow_rates()
        if not options and all(type(b) is torch.Tensor for b in batch):
            program.graph.check_offsets(batch)
            flat = program.bound.copy()
            for slot, tensor in zip(program.slots, batch, strict=True):
                flat[slot] = tensor.detach() if tensor.requires_grad else tensor
            return program, flat
        return program, _detached(program.graph.bind(batch, options))

    def _key(self, batch: tuple[Any, ...], options: dict[str, Any]) -> Any:
        modes = tuple([attributes.get(name) for attributes, name in self._attributes])
        trained = tuple([p.requires_grad for p in self._parameters])
        if not options and all(type(b) is torch.Tensor for b in batch):
            return (tuple([(b.shape, b.stride(), b.dtype, b.device) for b in batch]), modes, trained, self._settings())
        return (signature(batch, options), modes, trained, self._settings())

    def _settings(self) -> Any:
        """Hyperparameters baked into the graph (all but the learning rate), and ambient modes."""
        groups = [tuple([(k, v) for k, v in g.items() if k not in _NOT_BAKED]) for g in self.optimizer.param_groups]
        return (tuple(groups), ambient())

    def _follow_rates(self) -> None:
        for k, group in enumerate(self.optimizer.param_groups):
            if (rate := group["lr"]) is not self._seen_rates[k]:
                self._seen_rates[k] = rate
                self._rates[k].fill_(float(rate))

    def _build(self, batch: tuple[Any, ...], options: dict[str, Any]) -> _Program:
        with torch.enable_grad():
            forward = capture_for(self.objective, batch, options, wrt=())  # only parameters are differentiated
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad}
        names = [i.name for i in forward.inputs if i.kind == "parameter" and id(i.tensor) in trained]
        if not names:
            raise GraphError("no trainable parameter takes part in this step")
        joint = differentiate(forward, names)
        outside = why_not(self.optimizer)
        graph = joint if outside else simplify(Update(joint, self.optimizer, self._rates).append())
        by_name = {i.name: i.tensor for i in graph.inputs}
        gradients = []
        if outside:
            kept = [i for i, o in enumerate(graph.outputs) if o.kind != "mutation"]
            gradients = [(by_name[graph.outputs[i].name], kept.index(i)) for i in graph.positions("gradient")]
        owners = [(i.tensor, i.tensor.data_ptr()) for i in graph.inputs if i.tensor is not None]
        bound = _detached([i.tensor for i in graph.inputs])
        slots = [i for i, t in enumerate(bound) if t is None]
        self.optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]  # what schedulers look at
        if self.memory_budget is None:
            choice = choose(graph, _detached(graph.bind(batch, options)), self.backend)
        else:
            made = plan(graph, self.memory_budget, self._allowed, fused=self.backend == "inductor")
            self._allowed = max(self._allowed, made.budget)
            choice = choose_planned(graph, made, self.backend)
        state = [
            (p, key, tensor)
            for group in self.optimizer.param_groups
            for p in group["params"]
            if not outside and p in self.optimizer.state
            for key, tensor in self.optimizer.state[p].items()
            if isinstance(tensor, torch.Tensor)
        ]
        return _Program(graph, choice, bound, owners, slots, state, gradients)  # pyright: ignore[reportArgumentType]

    def _outside(self, program: _Program, kept: list[torch.Tensor]) -> None:
        """Call the user's optimizer on our gradients; parameters without one get None, as autograd leaves them."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, position in program.gradients:
            parameter.grad = kept[position]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _detached(flat: list[Any]) -> list[Any]:
    return [t.detach() if isinstance(t, torch.Tensor) else t for t in flat]


_NOT_BAKED = frozenset({"params", "lr", "initial_lr"})

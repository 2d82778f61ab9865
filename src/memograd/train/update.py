"""Parameter updates as graph operators: the formulas of torch.optim's SGD, Adam and AdamW on symbolic tensors.

The optimizer stays the user's torch.optim object: its hyperparameters and its state tensors are inputs of the graph,
the new state is written back into them, so ``optimizer.state_dict()`` is right after every step. The learning rate
is a tensor input, so schedulers change it without a new graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, optim

from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer

Tensor = torch.Tensor
_INPUTS = ("params", "lr", "initial_lr")  # of a group: what is no constant of the graph
State = dict[str, Tensor]


def sgd(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """v ← μ v + g;  p ← p - η (g + μ v if nesterov else v). Sutskever et al. 2013, as torch.optim.SGD has it."""
    new: State = {}
    if group["weight_decay"]:
        g = g + group["weight_decay"] * p
    if group["momentum"]:
        new["momentum_buffer"] = v = state["momentum_buffer"] * group["momentum"] + g
        g = g + group["momentum"] * v if group["nesterov"] else v
    return p - lr * g, new


def adam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - η m̂ / (√v̂ + ε). Kingma & Ba 2015, algorithm 1."""
    if group["weight_decay"]:
        g = g + group["weight_decay"] * p
    return _adam(p, g, lr, state, group)


def adamw(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Adam with p ← p (1 - η λ) beside it instead of λ p in the gradient. Loshchilov & Hutter 2019, algorithm 2."""
    if group["weight_decay"]:
        p = p * (1 - lr * group["weight_decay"])
    return _adam(p, g, lr, state, group)


def _adam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    beta1, beta2 = group["betas"]
    step = state["shared_step"].double()
    m = torch.lerp(state["exp_avg"], g, 1 - beta1)
    v = torch.addcmul(state["exp_avg_sq"] * beta2, g, g, value=1 - beta2)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if group["amsgrad"]:
        new["max_exp_avg_sq"] = v = torch.maximum(state["max_exp_avg_sq"], v)
    denominator = v.sqrt() / (1 - beta2**step).sqrt() + group["eps"]
    return p - (lr / (1 - beta1**step)) * (m / denominator), new


RULES: dict[type, Callable[..., tuple[Tensor, State]]] = {optim.SGD: sgd, optim.Adam: adam, optim.AdamW: adamw}


def why_not(optimizer: optim.Optimizer) -> str | None:
    """None when the update can be part of the graph, else the reason why ``optimizer.step()`` is called instead."""
    if type(optimizer) not in RULES:
        return f"{type(optimizer).__name__} has no update rule here"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has step hooks"
    if "step" in vars(optimizer) and not hasattr(vars(optimizer)["step"], "_wrapped_by_lr_sched"):
        return "its step method was replaced"
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            return "differentiable=True"
        if group.get("dampening"):
            return "dampening is set"
        if any(p.is_complex() or p.is_sparse for p in group["params"]):
            return "complex or sparse parameters"
        if any(isinstance(x, Tensor) for k, v in group.items() if k not in _INPUTS for x in _each(v)):
            return "a hyperparameter is a tensor, which may change without being replaced"
    return None


def _each(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else (value,)


def prepare(optimizer: optim.Optimizer, group: dict[str, Any], p: Tensor) -> State:
    """The optimizer's own state tensors for ``p``, made as torch.optim makes them when they are missing."""
    if isinstance(optimizer, optim.SGD) and not group["momentum"]:
        return {}
    state = optimizer.state[p]
    if isinstance(optimizer, optim.SGD):
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return {"momentum_buffer": state["momentum_buffer"]}
    if "step" not in state:
        state["step"] = _counter(group, p)
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        state.update({n: torch.zeros_like(p, memory_format=torch.preserve_format) for n in names})
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _counter(group: dict[str, Any], p: Tensor) -> Tensor:
    """A step counter at 0: on the CPU, unless torch.optim's own kernels want it where the parameter is."""
    fused = bool(group.get("fused"))
    wide = torch.get_default_dtype() == torch.float64 and not fused
    device = p.device if fused or group.get("capturable") else torch.device("cpu")
    return torch.zeros((), dtype=torch.float64 if wide else torch.float32, device=device)


class Update:
    """Appends the update of every parameter with a gradient to a differentiated graph.

    Where every step so far has updated the same parameters (``share``), those with equal step counters have their bias
    corrections in common.
    """

    def __init__(self, joint: Graph, optimizer: optim.Optimizer, rates: list[Tensor], share: bool = True) -> None:
        self.optimizer = optimizer
        self.share = share  # parameters with equal step counters have equal ones for ever
        self.rates = rates
        self.graph, self.where = joint.copy()
        self.tracer = Tracer(self.graph)
        self.inputs = list(joint.inputs)
        self.joint = joint
        self.written: dict[str, fx.Node] = {}  # parameters that the forward writes to (clipped weights): what it leaves
        self.outputs: list[Output] = []
        self.results: list[fx.Node] = []

    def append(self) -> Graph:
        """The graph of the whole step: results, then mutations of buffers, parameters and optimizer state."""
        joint = self.joint
        gradients = {joint.outputs[i].name: self.where[joint.results[i]] for i in joint.positions("gradient")}
        for entry, node in zip(joint.outputs, joint.results, strict=True):
            if entry.kind == "mutation" and entry.name in gradients:
                self.written[entry.name] = self.where[node]
            elif entry.kind != "gradient":
                self._output(entry, self.where[node])
        bound = {id(i.tensor): i.name for i in joint.inputs if i.tensor is not None}
        for k, group in enumerate(self.optimizer.param_groups):
            found = [(p, bound[id(p)]) for p in group["params"] if bound.get(id(p)) in gradients]
            states = [prepare(self.optimizer, group, p) for p, _ in found]
            if found:
                counts = [float(s["step"]) if "step" in s else 0.0 for s in states]
                with self.tracer.rules():
                    self._group(k, group, found, states, counts, gradients)
        self.graph.output(tuple(self.results))
        return joint.with_fx(self.graph, inputs=tuple(self.inputs), outputs=tuple(self.outputs)).verify()

    def _group(
        self,
        k: int,
        group: dict[str, Any],
        found: list[tuple[Tensor, str]],
        states: list[State],
        counts: list[float],
        gradients: dict[str, fx.Node],
    ) -> None:
        lr = self._input(f"learning rate {k}", self.rates[k])
        shared: dict[float, Tensor] = {}  # bias corrections are computed once for all equal step counters
        for (_, name), tensors, count in zip(found, states, counts, strict=True):
            self.tracer.meta = {"update_of": name}
            state = {key: self._input(f"{key} of {name}", t) for key, t in tensors.items()}
            if "step" in state:
                new_step = state["step"] + 1
                self._mutation(f"step of {name}", new_step)
                state["shared_step"] = shared.setdefault(count, new_step) if self.share else new_step
            gradient = self.tracer.input(gradients[name])
            gradient = -gradient if group["maximize"] else gradient
            old = self.tracer.input(self.written.get(name) or self.where[self.joint.placeholder(name)])
            value, new = RULES[type(self.optimizer)](old, gradient, lr, state, group)
            self._mutation(name, value)
            for key, tensor in new.items():
                self._mutation(f"{key} of {name}", tensor)

    def _input(self, name: str, tensor: Tensor) -> Tensor:
        self.inputs.append(Input("state", name, tensor))
        return self.tracer.placeholder("".join(c if c.isalnum() else "_" for c in name), tensor)

    def _mutation(self, name: str, tensor: Tensor) -> None:
        self._output(Output("mutation", name), self.tracer.node_of(tensor))

    def _output(self, entry: Output, node: fx.Node) -> None:
        self.outputs.append(entry)
        self.results.append(node)

"""Parameter updates as graph operators: the formulas of torch.optim's SGD, Adam and AdamW on symbolic tensors.

The optimizer stays the user's torch.optim object: its hyperparameters and its state tensors are inputs of the graph,
the new state is written back into them, so ``optimizer.state_dict()`` is right after every step. The learning rate
is a tensor input, so schedulers change it without a new graph, and so is any other option that has changed before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import optim

from memograd._torch import has_step_hooks
from memograd.errors import GraphError

Tensor = torch.Tensor
_INPUTS = ("params", "lr", "initial_lr")  # of a group: what is no constant of the graph
State = dict[str, Tensor]


def sgd(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """v ← μ v + g;  p ← p - η (g + μ v if nesterov else v). Sutskever et al. 2013, as torch.optim.SGD has it."""
    new: State = {}
    if on(group["weight_decay"]):
        g = g + group["weight_decay"] * p
    if on(group["momentum"]):
        new["momentum_buffer"] = v = state["momentum_buffer"] * group["momentum"] + g
        g = g + group["momentum"] * v if group["nesterov"] else v
    return p - lr * g, new


def adam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - η m̂ / (√v̂ + ε). Kingma & Ba 2015, algorithm 1."""
    if on(group["weight_decay"]):
        g = g + group["weight_decay"] * p
    return _adam(p, g, lr, state, group)


def adamw(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Adam with p ← p (1 - η λ) beside it instead of λ p in the gradient. Loshchilov & Hutter 2019, algorithm 2."""
    if on(group["weight_decay"]):
        p = p * (1 - lr * group["weight_decay"])
    return _adam(p, g, lr, state, group)


def _adam(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    beta1, beta2 = group["betas"]
    step = state["shared_step"].double()
    if isinstance(beta1, Tensor):  # a number that changes: neither operator takes one of another precision
        m = state["exp_avg"] + (1 - beta1) * (g - state["exp_avg"])
        v = state["exp_avg_sq"] * beta2 + (1 - beta2) * (g * g)
    else:
        m = torch.lerp(state["exp_avg"], g, 1 - beta1)
        v = torch.addcmul(state["exp_avg_sq"] * beta2, g, g, value=1 - beta2)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if group["amsgrad"]:
        new["max_exp_avg_sq"] = v = torch.maximum(state["max_exp_avg_sq"], v)
    denominator = v.sqrt() / (1 - beta2**step).sqrt() + group["eps"]
    return p - (lr / (1 - beta1**step)) * (m / denominator), new


def adam_of_either_kind(p: Tensor, g: Tensor, lr: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, State]:
    """In PyTorch AdamW is Adam with an option."""
    return (adamw if group.get("decoupled_weight_decay") else adam)(p, g, lr, state, group)


def on(number: Any) -> bool:
    """Whether an option is not zero; one that is an input of the graph is not."""
    return isinstance(number, Tensor) or bool(number)


RULES: dict[type, Callable[..., tuple[Tensor, State]]] = {
    optim.SGD: sgd,
    optim.Adam: adam_of_either_kind,
    optim.AdamW: adam_of_either_kind,
}


def refuse(optimizer: optim.Optimizer) -> None:
    """Raises GraphError for an optimizer whose ``step`` our gradients do not serve."""
    name = type(optimizer).__name__
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise GraphError(
            f"{name}.step() needs {', '.join(needed)}: it evaluates the model itself, as often as it likes, which a "
            "step of one graph cannot do. Train in a loop of your own with model = mg.wrap(model), and call "
            "optimizer.step(closure) there"
        )
    if isinstance(optimizer, optim.SparseAdam):
        raise GraphError(f"{name} takes sparse gradients only, and ours are dense: use Adam")


def why_not(optimizer: optim.Optimizer) -> str | None:
    """None when the update can be part of the graph, else the reason why ``optimizer.step()`` is called instead."""
    if type(optimizer) not in RULES:
        return f"{type(optimizer).__name__} has no update rule here"
    if has_step_hooks(optimizer):
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

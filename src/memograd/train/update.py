"""The update as part of a step's graph: which optimizers it is known of, and what state they begin with.

The optimizer stays the user's torch.optim object: its hyperparameters and its state tensors are inputs of the graph,
the new state is written back into them, so ``optimizer.state_dict()`` is right after every step. The learning rate
is a tensor input, so schedulers change it without a new graph, and so is any other option that has changed before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import optim

from memograd._torch import has_step_hooks, memory_of
from memograd.errors import GraphError
from memograd.graph.overlap import overlapping
from memograd.train import formulas
from memograd.train.formulas import State

Tensor = torch.Tensor
Formula = Callable[[Tensor, Tensor, Tensor, State, dict[str, Any]], tuple[Tensor, State]]
Start = Callable[[Tensor, dict[str, Any]], State]

_INPUTS = ("params", "lr", "initial_lr")  # of a group: what is no constant of the graph


@dataclass(frozen=True)
class Rule:
    """How an optimizer updates a parameter.

    Attributes:
        start: the state that it makes for one at first.
        counters: what of the state is a number that follows from how often it was updated, and from nothing else.
    """

    formula: Formula
    start: Start
    counters: tuple[str, ...] = ("step",)


RULES: dict[type, Rule] = {}


def update_rule(kind: type[optim.Optimizer], start: Start | None = None) -> Callable[[Formula], Formula]:
    """Enter the update of an optimizer of yours, so that steps have it in their graph, in one pass over each parameter.

    The formula gets ``(p, g, lr, state, group)``: parameter, gradient (negated where ``maximize``), learning rate, the
    tensors of ``optimizer.state[p]`` and the group's options; it returns the new parameter and the new tensors of the
    state, and writes to nothing. ``start(p, group)`` is the state that the optimizer makes for a parameter it has not
    seen. With an entry ``step`` in it updates are counted there; ``state["shared_step"]`` is the number of this one.

    It holds for ``kind`` itself, not for classes derived from it. Each step's first update is compared with that of
    ``kind.step()``; see ``check`` of ``mg.TrainStep``. What shows only in later ones (the factor of a momentum that
    begins with zeros) is compared with ``check="always"``: run a new rule so for a few steps.

    Raises:
        GraphError: ``kind`` is no class of optimizers.
    """
    if not (inspect.isclass(kind) and issubclass(kind, optim.Optimizer)):
        raise GraphError(f"an update rule is for a class of optimizers, not for {kind!r}")

    def enter(formula: Formula) -> Formula:
        RULES[kind] = Rule(formula, start or (lambda p, group: {}))
        return formula

    return enter


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
        return f"{type(optimizer).__name__} has no update rule here; mg.update_rule enters one"
    if has_step_hooks(optimizer):
        return "the optimizer has step hooks"
    if "step" in vars(optimizer) and not hasattr(vars(optimizer)["step"], "_wrapped_by_lr_sched"):
        return "its step method was replaced"
    if _share_memory([p for group in optimizer.param_groups for p in group["params"]]):
        return "two parameters lie in the same memory, which it updates one after the other"
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            return "differentiable=True"
        if group.get("dampening"):
            return "dampening is set"
        if any(p.is_complex() or p.is_sparse for p in group["params"]):
            return "complex or sparse parameters"
        others = (x for p in group["params"] for x in optimizer.state.get(p, {}).values())
        if any(x is not None and not isinstance(x, Tensor) for x in others):
            return "its state holds more than tensors"
        if any(isinstance(x, Tensor) for k, v in group.items() if k not in _INPUTS for x in _each(v)):
            return "a hyperparameter is a tensor, which may change without being replaced"
    return None


def _share_memory(parameters: list[Tensor]) -> bool:
    plain = [p for p in parameters if type(p) in (Tensor, torch.nn.Parameter) and p.device.type != "meta"]
    if len(set(map(memory_of, plain))) == len(plain):  # as nearly always, and a tenth of the time
        return False
    return bool(overlapping(plain))


def _each(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else (value,)


def prepare(optimizer: optim.Optimizer, group: dict[str, Any], p: Tensor) -> State:
    """The optimizer's own state tensors for ``p``, made as the optimizer makes them when they are missing.

    Raises:
        GraphError: a combination that ``step`` of PyTorch's own optimizers refuses.
    """
    if group.get("capturable") and p.device.type == "cpu" and type(optimizer).__module__.startswith("torch."):
        raise GraphError(
            f"{type(optimizer).__name__} has capturable=True, which is for CUDA graphs, and a parameter of shape "
            f"{tuple(p.shape)} on the CPU, as PyTorch's step() refuses it too: leave capturable out"
        )
    tensors = {k: t for k, t in optimizer.state.get(p, {}).items() if isinstance(t, Tensor)}
    if not tensors and (tensors := RULES[type(optimizer)].start(p, group)):
        optimizer.state[p].update(tensors)
    return tensors


def updated(
    optimizer: optim.Optimizer, p: Tensor, g: Tensor, lr: Tensor, state: State, group: Any
) -> tuple[Tensor, State]:
    """What the optimizer's rule makes of a parameter and of its state, each in the dtype of what it replaces: one
    number and a learning rate are two numbers, of which the wider dtype wins.

    Raises:
        GraphError: it returns anything else than these, or in another shape, or writes to the state.
    """
    versions = {key: t._version for key, t in state.items()}
    try:
        result: Any = RULES[type(optimizer)].formula(p, g, lr, state, group)
    except (KeyError, RuntimeError) as error:
        lacks = isinstance(error, KeyError) and error.args[0] not in state and error.args[0] not in group
        if not lacks and all(t.numel() == 1 or t.shape == p.shape for t in state.values()):
            raise
        entries = ", ".join(f"{name!r} of shape {tuple(t.shape)}" for name, t in state.items())
        raise GraphError(
            f"the state of {type(optimizer).__name__} for a parameter of shape {tuple(p.shape)} holds {entries}, which "
            "it does not make: load the state of this optimizer with this model, or begin anew "
            "(optimizer.state.clear())"
        ) from error
    rule = f"the update rule of {type(optimizer).__name__}"
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise GraphError(f"{rule} returned {type(result).__name__}, not (new parameter, {{name: new state}})")
    value, new = result
    tensors = {key: t for key, t in state.items() if key not in ("step", "shared_step")}
    if unknown := new.keys() - tensors.keys():
        names = ", ".join(map(repr, sorted(unknown, key=str)))
        raise GraphError(
            f"{rule} returned {names}, which it may not write: the state has {', '.join(tensors) or 'nothing'}"
        )
    if lost := [key for key, t in state.items() if t._version != versions[key] and key not in new]:
        raise GraphError(f"{rule} writes to {', '.join(map(repr, lost))} of the state: let it return the new tensor")
    pairs = [("the parameter", p, value), *((repr(key), tensors[key], t) for key, t in new.items())]
    for what, old, t in pairs:
        if not isinstance(t, Tensor):
            raise GraphError(f"{rule} returned {type(t).__name__} for {what}, not a tensor")
        if t.shape != old.shape or not torch.can_cast(t.dtype, old.dtype):
            raise GraphError(
                f"{rule} returned {tuple(t.shape)} of {t.dtype} for {what}, which is {tuple(old.shape)} of {old.dtype}"
            )
    return value.to(p.dtype), {key: t.to(tensors[key].dtype) for key, t in new.items()}


# -- what torch.optim begins with ----------------------------------------------------------------------------------


def zeros(p: Tensor, *names: str) -> State:
    """As many tensors like ``p``."""
    return {n: torch.zeros_like(p, memory_format=torch.preserve_format).detach() for n in names}


def counter(p: Tensor, group: dict[str, Any], number: float = 0.0) -> Tensor:
    """A step counter: on the CPU, unless torch.optim's own kernels want it where the parameter is."""
    fused = bool(group.get("fused"))
    wide = torch.get_default_dtype() == torch.float64 and not fused
    device = p.device if fused or group.get("capturable") else torch.device("cpu")
    return torch.full((), number, dtype=torch.float64 if wide else torch.float32, device=device)


def _sgd(p: Tensor, group: dict[str, Any]) -> State:
    return zeros(p, "momentum_buffer") if group["momentum"] else {}


def _adam(p: Tensor, group: dict[str, Any]) -> State:
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
    return {"step": counter(p, group), **zeros(p, *names)}


def _adagrad(p: Tensor, group: dict[str, Any]) -> State:
    return {"step": counter(p, group), "sum": torch.full_like(p, group["initial_accumulator_value"]).detach()}


def _rmsprop(p: Tensor, group: dict[str, Any]) -> State:
    names = ["momentum_buffer"] * (group["momentum"] > 0) + ["grad_avg"] * bool(group["centered"])
    return {"step": counter(p, group), **zeros(p, "square_avg", *names)}


def _adamax(p: Tensor, group: dict[str, Any]) -> State:
    return {"step": counter(p, group), **zeros(p, "exp_avg", "exp_inf")}


def _nadam(p: Tensor, group: dict[str, Any]) -> State:
    return {"step": counter(p, group), "mu_product": counter(p, group, 1.0), **zeros(p, "exp_avg", "exp_avg_sq")}


def _radam(p: Tensor, group: dict[str, Any]) -> State:
    return {"step": counter(p, group), **zeros(p, "exp_avg", "exp_avg_sq")}


RULES |= {
    optim.SGD: Rule(formulas.sgd, _sgd),
    optim.Adam: Rule(formulas.adam, _adam),
    optim.AdamW: Rule(formulas.adam, _adam),
    optim.Adagrad: Rule(formulas.adagrad, _adagrad),
    optim.RMSprop: Rule(formulas.rmsprop, _rmsprop),
    optim.Adamax: Rule(formulas.adamax, _adamax),
    optim.NAdam: Rule(formulas.nadam, _nadam, ("step", "mu_product")),
    optim.RAdam: Rule(formulas.radam, _radam),
}

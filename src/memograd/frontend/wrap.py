"""``wrap``: any model, in any loop, with our backward.

The model stays the same object; only the ``forward`` of this one instance is another function, as after
``nn.Module.compile()``. So its class, its parameters, hooks, ``state_dict`` and whatever a training loop asks of it
are what they were.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn
from torch.jit import ScriptModule

from memograd.errors import BackendError, GraphError
from memograd.frontend.binding import within
from memograd.frontend.forward import Wrapped
from memograd.frontend.settings import Settings
from memograd.frontend.watch import Watch
from memograd.memory.budget import parse_budget
from memograd.memory.plan import Plan

Model = TypeVar("Model", bound=nn.Module)
_BACKENDS = ("auto", "eager", "convolutions", "inductor", "native")
_WHENS = ("first", "never", "always")


def wrap(
    model: Model,
    memory_budget: int | str | Plan | None = None,
    backend: str = "auto",
    check: Literal["first", "never", "always"] = "first",
    watch: bool = False,
) -> Model:
    """Let ``model`` run our graphs: its forward pass, and in ``loss.backward()`` our derivative of it.

    The very same object comes back, and everything about it is as before: class, parameters, buffers, hooks,
    ``state_dict``, pickling, copying. Without gradients (``no_grad``, ``inference_mode``, a frozen model), inside
    ``torch.func``'s transforms, in forward mode and inside programs that ``memograd`` captures, PyTorch's own forward
    runs.

    Args:
        model: any ``nn.Module``; may be a part of another model, and may hold wrapped parts.
        memory_budget: the most bytes of tensors alive at any moment of the model's forward and backward pass:
            parameters, buffers, inputs, activations, cotangents, gradients and operators' workspace. Bytes, "8GiB",
            "600MB" or "50%" of what they need without a budget. What does not fit is computed again, with the same
            random numbers. The loss, ``.grad`` from earlier passes and the optimizer are the loop's own, and outside.
        backend: ``eager``: operator by operator, as PyTorch; ``convolutions``: so, but each convolution on a CPU by
            the algorithm that is fastest, with sums in another order; ``inductor``: fused kernels, compiled at the
            first call;
            ``native``: one compiled C function for each pass of a small model, whose sums may add up in another order;
            ``auto``: ``eager``, and for small models after 1,000 calls whichever of it and ``native`` is faster.
        check: ``first``: the first time that gradients come through a program they are compared with those of
            ``torch.autograd`` for the same call, which takes the time and the memory of a plain step beside;
            ``always``: every time; ``never``, within a memory
            budget too, which that would break. ``model.forward.check_reason`` says how it came out.
        watch: a backward pass with a gradient that is not finite ends with ``NonFiniteError`` before any ``.grad`` of
            the model is written; its ``report`` says which operator or rule did it, on which line, why, and what
            helps. On an accelerator no pass waits for its gradients: the error comes in front of the next ``step()`` of
            an optimizer of PyTorch's, which waits for them, or in a later pass, if it is known by then.

    Returns:
        ``model``.

    Raises:
        GraphError: ``model`` is no module, or one that ``torch.jit`` has compiled, or ``check`` none of the three.
        DataError: the budget cannot be read.
        BackendError: there is no such backend; or, at a call, the native one cannot run this model.
        BudgetInfeasibleError: at a call: no schedule fits the budget.
        GradientMismatchError: in the backward pass: our gradients differ by more than rounding.
        NonFiniteError: in the backward pass, with ``watch=True``: a gradient is NaN or infinite.
        CaptureError, MissingRuleError, OpaqueBackwardError: at a call: this program cannot be captured or
            differentiated.
    """
    _refuse(model, "wrap")
    if isinstance(model, ScriptModule):
        raise GraphError("wrap takes no module that torch.jit has compiled: wrap the module it was made of")
    check_options(backend, check)
    if memory_budget is not None and not isinstance(memory_budget, Plan):
        parse_budget(memory_budget, 100)
    unwrap(model)
    settings = Settings(memory_budget, backend, watch=Watch() if watch else None)
    model.forward = Wrapped(model, model.__dict__.get("forward"), settings, check)
    return model


def _refuse(model: object, name: str) -> None:
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise GraphError(f"{name} takes an nn.Module, got {what}")


def check_options(backend: str, check: str) -> None:
    """Refuse what ``wrap`` has not."""
    if check not in _WHENS:
        raise GraphError(f"check must be one of {', '.join(map(repr, _WHENS))}, got {check!r}")
    if backend not in _BACKENDS:
        raise BackendError(f"unknown backend {backend!r} for a wrapped model; choose {', '.join(_BACKENDS)}")


def unwrap(model: Model) -> Model:
    """Undo ``wrap``; a model that is not wrapped stays as it is.

    Returns:
        ``model``.

    Raises:
        GraphError: ``model`` is no module.
    """
    _refuse(model, "unwrap")
    forward = model.__dict__.get("forward")
    if isinstance(forward, Wrapped):
        del model.__dict__["forward"]
        for part in forward.parts:
            unwrap(part)
        if forward.own is not None:
            model.forward = forward.own
    elif (wrapped := within(forward, model)) is not None:  # somebody has put functions of theirs around it
        wrapped.off = True
        for part in wrapped.parts:
            unwrap(part)
    return model

"""What PyTorch knows of an operator.

- ``schema_of``: what it takes, returns and writes to. PyTorch's own code reads ``_schema``; there is no public name.
- ``quick``: what an operator's own ``__call__`` does nothing but call (``_op``), which takes a microsecond.
- ``is_composite``, ``has_own_kernel``: no public function tells operators that autograd takes apart from those it runs;
  ``taken_apart``: nor runs what they are made of where autograd is not there to do it (``decompose`` prefers what
  Python knows of them, which is not always the same).
- ``is_given_functions``: operators that are given functions have a class of their own, without a public name; a mode
  is handed them where its ``supports_higher_order_operators`` is true.
- ``registered_backward``: nothing public says whether ``register_autograd`` was called for a custom operator;
  ``generated_function``: nor what the ``autograd.Function`` is called that it gets.
"""

from __future__ import annotations

from typing import Any

import torch


def schema_of(operator: Any) -> Any:
    """What an operator takes and returns; None for what is none of PyTorch's (a fused kernel, ``getitem``)."""
    return getattr(operator, "_schema", None)


def quick(operator: Any) -> Any:
    """What calls ``operator`` without a detour; others than PyTorch's own kinds of operators decide for themselves."""
    return operator._op if type(operator) is torch._ops.OpOverload else operator


def is_composite(operator: Any) -> bool:
    """True for an operator that autograd sees only as the operators it is composed of (``linear``, ``matmul``)."""
    name = operator.name()  # ``sym_size`` is known to Python alone
    return torch._C._dispatch_has_kernel(name) and torch._C._dispatch_has_kernel_for_dispatch_key(
        name, "CompositeImplicitAutograd"
    )


def has_own_kernel(operator: Any) -> bool:
    """Whether a composite ``operator`` has a kernel too, which runs where nobody differentiates (``silu_backward``)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CPU")


def is_given_functions(operator: Any) -> bool:
    """Whether it is one of those that branch and loop: ``torch.cond``."""
    return isinstance(operator, torch._ops.HigherOrderOperator)


def taken_apart(operator: Any, args: Any, kwargs: Any) -> Any:
    """What the composite ``operator`` returns; the operators that it is composed of are dispatched."""
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def generated_function(node: Any) -> str:
    """Name of the ``autograd.Function`` that ``torch.library.custom_op`` makes for the operator of an fx node."""
    schema = schema_of(node.target)
    if schema is None:
        return ""
    return f"GeneratedBackwardFor_{schema.name.replace('::', '_')}_{schema.overload_name or 'default'}"


def registered_backward(generated: Any) -> bool:
    """Whether ``register_autograd`` was called for the operator whose ``autograd.Function`` is ``generated``."""
    functions = [generated.backward]
    while functions:
        function = functions.pop()
        free = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for name, cell in zip(free, getattr(function, "__closure__", None) or (), strict=True):
            if name == "info":
                return cell.cell_contents._backward_fn is not None
            if name == "orig_backward":  # an operator with lists of tensors
                functions.append(cell.cell_contents)
    return True

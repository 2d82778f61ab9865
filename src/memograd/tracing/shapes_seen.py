"""What operators make of shapes, remembered: the blocks of a network ask the same again and again.

PyTorch's tensors without data remember too, but look at each call for about as long as all the rest of recording it
takes. Here only plain calls are remembered: an ATen operator that returns one new tensor, of ordinary tensors and of
Python's own values. What the answer may depend on besides is part of the question.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from memograd._torch import fake_of, geometry_of, schema_of, share_memory
from memograd.tracing.layouts import as_kernel

_MOST = 20_000  # answers, of some hundred bytes each
_ANSWERS: dict[Any, Any] = {}  # geometry of the result; None where it is not to be had from here
_VALUES = frozenset(
    (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
)
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def result_of(func: Any, args: Any, kwargs: Any) -> Any:
    """``func`` on tensors without data; its results are laid out as its kernel does it."""
    question = _question(func, args, kwargs) if _is_plain(func) and not torch.is_inference_mode_enabled() else None
    if question is None:
        return as_kernel(func, args, func(*args, **kwargs))
    if (answer := _ANSWERS.get(question)) is not None:
        return fake_of(answer)
    out = as_kernel(func, args, func(*args, **kwargs))
    if question not in _ANSWERS:
        if len(_ANSWERS) >= _MOST:
            _ANSWERS.clear()
        _ANSWERS[question] = _answer(out, args, kwargs)
    return out


@cache
def _is_plain(func: Any) -> bool:
    """Whether ``func`` returns one new tensor whose shape its arguments' shapes say. Of a convolution the settings of
    libraries decide how the result lies."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten" or "conv" in func.name():
        return False
    schema = schema_of(func)
    return (
        len(schema.returns) == 1
        and isinstance(schema.returns[0].type, torch.TensorType)
        and all(a.alias_info is None for a in (*schema.arguments, *schema.returns))
        and not _TAGS & set(func.tags)
    )


def _question(func: Any, args: Any, kwargs: Any) -> Any:
    """What is asked, as something to look up; None where it is not only about geometry."""
    parts = [func, torch.get_default_dtype()]
    if _add(parts, args) and (not kwargs or _add(parts, tuple(kwargs.items()))):
        return tuple(parts)
    return None


def _add(parts: list[Any], values: Any) -> bool:
    for value in values:
        kind = type(value)
        if kind in _VALUES:
            parts.append(kind)  # 1, 1.0 and True are equal
            parts.append(value)
        elif kind is list or kind is tuple:
            parts.append(len(value))
            if not _add(parts, value):
                return False
        elif (geometry := geometry_of(value)) is not None:
            parts.append(geometry)
        else:
            return False
    return True


def _answer(out: Any, args: Any, kwargs: Any) -> Any:
    """The geometry of ``out``, if it is a tensor of its own with nothing in its memory besides."""
    geometry = geometry_of(out)
    operands = [*args, *kwargs.values()]
    operands += [x for a in operands if isinstance(a, (list, tuple)) for x in a]
    tensors = [x for x in operands if isinstance(x, torch.Tensor)]
    if geometry is None or any(share_memory(x, out) for x in tensors):
        return None
    return geometry if geometry_of(fake_of(geometry)) == geometry else None

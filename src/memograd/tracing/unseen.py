"""What a program does to tensors without any operator, so that the dispatcher never sees it.

* ``x.data = y`` gives a tensor other memory.
* ``x._version`` counts writes, also those of an optimizer: refused for tensors that the program was given.
* ``x.data_ptr()`` asks where a tensor lies: refused (``addresses``); ``x.storage_offset()`` where it begins there.
* ``SobolEngine.draw`` writes numbers to memory: refused.
* ``print(x)`` shows what a tensor without data is to PyTorch's own tracing; here it says what it is to the user. A text
  that is no more than shown is one thing, one that the program goes by another (``printed``).
* ``x.tolist()`` and others read values (``silent_reads``), and ``x.apply_(f)`` writes what it makes of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from memograd._torch import VERSION, is_fake
from memograd.errors import CaptureError
from memograd.tracing.addresses import ADDRESSES, refuse_address
from memograd.tracing.ids import counts
from memograd.tracing.interposed import current
from memograd.tracing.printed import only_shown
from memograd.tracing.provenance import caller
from memograd.tracing.silent_reads import BY_ELEMENT, TO_PYTHON, read_by
from memograd.tracing.tracer import Tracer

_SET_DATA = torch.Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]
_OFFSET = torch.Tensor.storage_offset
_REPR = torch.Tensor.__repr__
_SHOWS = frozenset({_REPR, torch.Tensor.__format__})
_BITS = frozenset({torch.Tensor.is_conj, torch.is_conj, torch.Tensor.is_neg, torch.is_neg})
_SOBOL = frozenset(getattr(torch, name) for name in dir(torch) if name.startswith("_sobol_engine"))


class Shown(str):
    """The text of a tensor. Who compares it with others, or looks for it in a dict, looks at the tensor's values."""

    of: Any = None  # looks at them

    def _look(self) -> None:
        if self.of is not None and current() is not None:
            self.of()

    def __hash__(self) -> int:
        self._look()
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        self._look()
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def read(text: Shown) -> str:
    """The text, which somebody outside will read."""
    hash(text)
    return str.__str__(text)[:]


class Unseen(TorchFunctionMode):
    """While open, tells ``tracer`` of such calls."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.tracer.paused:
            return func(*args, **kwargs)
        if func in ADDRESSES:
            refuse_address(ADDRESSES[func])
        if why := self._why_not(func, args):
            source, line = caller()
            raise CaptureError(f"{source} ({line}) {why}")
        if func in _SHOWS:
            return self._shown(func, args)
        if func == _SET_DATA:
            tensor, new = args
            self.tracer.assign(tensor, new)
            return func(self.tracer.stand_in(tensor), self.tracer.stand_in(new))
        if self.tracer.asked_ids:
            counts(args, kwargs)
        for tensor in read_by(func, args, kwargs):
            if self.tracer.concrete or is_fake(self.tracer.stand_in(tensor)):
                self.tracer.look(tensor, "value")
        if func in BY_ELEMENT and self.tracer.concrete:
            return self._by_element(func, args, kwargs)
        if func is torch.Tensor.__dlpack__ and self.tracer.concrete:
            with self.tracer.pause():  # a copy: nobody would see what is written to it
                return func(self.tracer.stand_in(args[0]).detach().clone(), *args[1:], **kwargs)
        if func in TO_PYTHON and self.tracer.concrete:
            values = func(self.tracer.stand_in(args[0]), *args[1:], **kwargs)
            if hasattr(values, "setflags"):
                values.setflags(write=False)  # nobody would see what is written through it
            return values
        return func(*args, **kwargs)

    def _shown(self, func: Any, args: Any) -> Any:
        with self.tracer.pause():
            shown = self.tracer.stand_in(args[0])
        if func != _REPR and not shown.dim():
            return format(args[0].item(), args[1])  # that of a number is the number's
        if not (self.tracer.concrete or is_fake(shown)):
            return func(*args)
        look = partial(self.tracer.look, args[0], "value")
        if not (shows := only_shown()):
            look()
        if is_fake(shown):
            text = f"tensor(no values yet: a graph is being made of the program; {tuple(shown.shape)}, {shown.dtype})"
        else:
            with self.tracer.pause():
                text = func(shown, *args[1:])
        if shows:
            text = Shown(text)
            text.of = look
        return text

    def _why_not(self, func: Any, args: Any) -> str | None:
        """Why a graph cannot have what is asked here or drawn."""
        if func in _BITS and self.tracer.bits:
            return (
                "asks whether a tensor is a conjugated or negated view, and the program was given one of these: a "
                "graph gets it worked out. Pass in x.resolve_conj().resolve_neg()"
            )
        if func == VERSION and self.tracer.is_given(self.tracer.stand_in(args[0])):
            return (
                "asks how often a tensor was written to that the program was given (_version): each update writes to a "
                "parameter, so a graph would be right for one call. Count in an attribute of yours"
            )
        if func is _OFFSET and self._is_view_of_larger(args[0]):
            return (
                "asks where in its memory a tensor begins (storage_offset), and was given a view into a larger one, "
                "which a graph gets for itself: pass a copy (x.clone()), or the number as an argument"
            )
        if func in _SOBOL:
            return (
                "draws from a Sobol sequence, which PyTorch computes past its dispatcher; draw outside and pass the "
                "numbers in"
            )
        return None

    def _is_view_of_larger(self, tensor: torch.Tensor) -> bool:
        given = self.tracer.is_given(self.tracer.stand_in(tensor))
        return given and bool(self.tracer.offset_inputs or tensor.storage_offset())

    def _by_element(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """The same as a write that is seen: the numbers that were looked at decide what is written."""
        with self.tracer.pause():
            own = [self.tracer.stand_in(x) if isinstance(x, torch.Tensor) else x for x in args]
            value = func(own[0].clone(), *own[1:], **kwargs)
        return args[0].copy_(value)

"""A wrapped forward among those who take ``model.forward`` to pieces, put it together again, and copy what they made.

Libraries decorate the forward of a model that they are given. Some ask for the function behind the bound method and
bind theirs to the model, and to copies of it::

    function = model.forward.__func__
    model.forward = types.MethodType(decorated(function), model)
    average = copy.deepcopy(model)            # the method of the copy is bound to the copy

So there is such a function, and it finds what is meant by the module that it gets.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn

_MARK = "_memograd_wrapped"  # attribute of such a function: the wrapped forward that it is of
_TWIN = "_memograd_forward"  # attribute of a copy of a module whose forward somebody has decorated: what runs for it


def function_of(wrapped: Any) -> Callable[..., Any]:
    """The function behind a wrapped forward, of a module and its arguments."""

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if wrapped.off:
            return wrapped.original_of(module)(*args, **kwargs)
        called = _for(wrapped, module)
        here = module.__dict__.get("forward")
        if type(here) is types.MethodType and here.__func__ is forward:  # nothing is around it: it can be pickled
            module.__dict__["forward"] = called
        return called.call(args, kwargs)

    vars(forward)[_MARK] = wrapped
    return forward


def _for(wrapped: Any, module: nn.Module) -> Any:
    """``wrapped``, or its twin for ``module``, where that is a copy of its model."""
    if module is wrapped.model:
        return wrapped
    twin = module.__dict__.get(_TWIN)
    if twin is None or twin.model is not module:
        twin = module.__dict__[_TWIN] = wrapped.twin(module)
    return twin


def within(forward: Any, module: nn.Module) -> Any:
    """The wrapped forward of ``module`` that ``forward`` comes to by bound methods and decorators; None where there is
    none."""
    while forward is not None:
        if _MARK in getattr(forward, "__dict__", ()):  # functools.wraps copies it
            return _for(vars(forward)[_MARK], module)
        forward = getattr(forward, "__wrapped__", None) or getattr(forward, "__func__", None)
    return None

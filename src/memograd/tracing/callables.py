"""Functions and methods that a program has made, as each run makes them anew: with tensors, lists and objects of its
own in the variables that they enclose."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

_Build = Callable[[Any], Any]
_Own = Callable[[Any], "_Build | None"]
_Has = Callable[[Any], bool]
_METHODS = (types.BuiltinMethodType, types.MethodWrapperType)


def build_of(value: Any, own: _Own, is_users: _Has) -> _Build | None:
    """How a run makes ``value``; None where ``value`` itself will do, or is none of these.

    Args:
        own: the same for what it holds.
        is_users: whether a variable was there before the program ran.
    """
    if isinstance(value, types.FunctionType):
        return _function(value, own, is_users)
    if isinstance(value, types.MethodType):
        build = own(value.__self__)
        return build and (lambda run: types.MethodType(value.__func__, build(run)))
    if isinstance(value, _METHODS):
        build = None if isinstance(value.__self__, types.ModuleType | type) else own(value.__self__)
        return build and (lambda run: getattr(build(run), value.__name__))
    if isinstance(value, functools.partial):
        return _partial(value, own)
    return None


def _function(value: types.FunctionType, own: _Own, is_users: _Has) -> _Build | None:
    cells = value.__closure__ or ()
    variables = [None if is_users(cell) or not _is_filled(cell) else _content(cell, own) for cell in cells]
    defaults = [own(v) for v in value.__defaults__ or ()]
    by_name = [own(v) for v in (value.__kwdefaults__ or {}).values()]
    if not any((*variables, *defaults, *by_name)):
        return None

    def build(run: Any) -> Any:
        pairs = list(zip(variables, cells, strict=True))  # a variable is each run's own, and one to all its functions
        made_cells = tuple([run.made.setdefault(id(c), types.CellType()) if b else c for b, c in pairs])
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, closure=made_cells)
        run.made[id(value)] = made  # a variable may hold it
        for one, cell in zip(variables, made_cells, strict=True):
            if one is not None and not _is_filled(cell):
                cell.cell_contents = one(run)
        held = value.__kwdefaults__ or {}
        made.__defaults__ = tuple(_values(value.__defaults__ or (), defaults, run)) or None
        made.__kwdefaults__ = dict(zip(held, _values(held.values(), by_name, run), strict=True)) or None
        made.__dict__.update(value.__dict__)
        return functools.update_wrapper(made, value, functools.WRAPPER_ASSIGNMENTS, ())

    return build


def _content(cell: Any, own: _Own) -> _Build:
    content = cell.cell_contents
    return own(content) or (lambda _: content)


def _partial(value: functools.partial[Any], own: _Own) -> _Build | None:
    held = [value.func, *value.args, *value.keywords.values()]
    builds = [own(v) for v in held]
    if not any(builds):
        return None

    def build(run: Any) -> Any:
        function, *rest = _values(held, builds, run)
        count = len(value.args)
        return type(value)(function, *rest[:count], **dict(zip(value.keywords, rest[count:], strict=True)))

    return build


def _values(held: Any, builds: Any, run: Any) -> list[Any]:
    return [v if build is None else build(run) for v, build in zip(held, builds, strict=True)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # not assigned yet
        return False
    return True

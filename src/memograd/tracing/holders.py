"""What can hold a value of the user's, and how to copy, compare and put back what it holds."""

from __future__ import annotations

import collections
from typing import Any

import torch

from memograd._torch import attributes_of, parametrized_values


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()


class Keyed:
    """Holds values under keys. ``contents`` is a dict; ``assign`` with MISSING deletes."""

    def __init__(self, holder: Any) -> None:
        self.holder = holder
        self.kind: Any = collections.OrderedDict if isinstance(holder, collections.OrderedDict) else dict

    def contents(self) -> dict[Any, Any]:
        return dict(self.kind.items(self.holder))  # whatever a subclass makes of ``holder[key]``

    def assign(self, key: Any, value: Any) -> None:
        if value is MISSING:
            self.kind.pop(self.holder, key, None)
        else:
            self.kind.__setitem__(self.holder, key, value)

    def put_back(self, saved: dict[Any, Any]) -> None:
        now = self.contents()
        for key in now.keys() - saved.keys():
            self.assign(key, MISSING)
        at = {key: i for i, key in enumerate(now)}  # no key is compared with others: tensors have no answer to that
        order = [at.get(key, -1) for key in saved]
        ordered = -1 not in order and order == sorted(order)
        if not ordered and isinstance(self.holder, dict):  # the order of a module's children matters
            self.kind.clear(self.holder)
            now = {}
        for key, value in saved.items():
            if now.get(key, MISSING) is not value:
                self.assign(key, value)


class ClassAttributes(Keyed):
    """The attributes of a class that hold data."""

    def contents(self) -> dict[Any, Any]:
        return {k: v for k, v in vars(self.holder).items() if not k.startswith("__") and not hasattr(v, "__get__")}

    def assign(self, key: Any, value: Any) -> None:
        if value is MISSING:
            type.__delattr__(self.holder, key)
        else:
            type.__setattr__(self.holder, key, value)


class Attributes(Keyed):
    """Some attributes of an object: its ``__slots__``, or the content of a variable of an enclosing function."""

    def __init__(self, holder: Any, names: tuple[str, ...]) -> None:
        super().__init__(holder)
        self.names = names

    def contents(self) -> dict[Any, Any]:
        held: dict[Any, Any] = {}
        for name in self.names:
            try:
                held[name] = object.__getattribute__(self.holder, name)
            except (AttributeError, ValueError):  # a variable that was never assigned raises the latter
                continue
        return held

    def assign(self, key: Any, value: Any) -> None:
        if value is MISSING:
            object.__delattr__(self.holder, key)
        else:
            object.__setattr__(self.holder, key, value)


class Variables(Keyed):
    """Some of the globals of a module."""

    def __init__(self, scope: dict[str, Any], names: tuple[str, ...]) -> None:
        super().__init__(scope)
        self.names = names

    def contents(self) -> dict[Any, Any]:
        return {name: self.holder[name] for name in self.names if name in self.holder}

    def put_back(self, saved: dict[Any, Any]) -> None:
        for name in self.names:
            self.assign(name, saved.get(name, MISSING))


class Parametrized(Keyed):
    """The parametrized tensors that PyTorch keeps inside ``parametrize.cached()``: each time in another dict."""

    def __init__(self) -> None:
        self.kind = dict

    @property
    def holder(self) -> dict[Any, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        values = parametrized_values()
        return {} if values is None else values


class OfATensor(Keyed):
    """Something that PyTorch keeps with a tensor: whether it requires a gradient (``requires_grad``), its ``grad``."""

    def __init__(self, holder: torch.Tensor, key: str, name: str = "") -> None:
        """``name``: of the input of the graph that it is, if the graph is bound to that."""
        super().__init__(holder)
        self.key, self.name = key, name

    def contents(self) -> dict[Any, Any]:
        return {self.key: getattr(self.holder, self.key)}

    def assign(self, key: Any, value: Any) -> None:
        setattr(self.holder, key, value)

    def of(self, tensor: torch.Tensor) -> OfATensor:
        """The same of another tensor."""
        return OfATensor(tensor, self.key)


class Noted(Keyed):
    """What is noted on a tensor: ``x.scale = 2``."""

    def contents(self) -> dict[Any, Any]:
        return attributes_of(self.holder)

    def assign(self, key: Any, value: Any) -> None:
        if value is MISSING:
            vars(self.holder).pop(key, None)
        else:
            vars(self.holder)[key] = value


class Sequence:
    """A list or deque."""

    def __init__(self, holder: list[Any] | collections.deque[Any]) -> None:
        self.holder = holder

    def contents(self) -> list[Any]:
        return list(self.holder)

    def put_back(self, saved: list[Any]) -> None:
        now = self.contents()
        if len(now) != len(saved) or any(a is not b for a, b in zip(now, saved, strict=True)):
            self.holder.clear()
            self.holder.extend(saved)


class Members:
    """A set."""

    def __init__(self, holder: set[Any]) -> None:
        self.holder = holder

    def contents(self) -> set[Any]:
        return set(self.holder)

    def put_back(self, saved: set[Any]) -> None:
        if self.holder != saved:
            self.holder.clear()
            self.holder.update(saved)


Holder = Keyed | Sequence | Members


def holder_of(container: Any) -> Holder:
    """For a dict, list, deque or set."""
    if isinstance(container, dict):
        return Keyed(container)
    return Members(container) if isinstance(container, set) else Sequence(container)


def dict_of(owner: Any) -> dict[str, Any] | None:
    """``owner.__dict__`` as Python keeps it, whatever the class makes of that name."""
    try:
        own = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return own if isinstance(own, dict) else None


def noted(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor``, with the attributes that ``like`` was given."""
    if notes := attributes_of(like):
        vars(tensor).update(notes)
    return tensor


def slots_of(cls: type) -> tuple[str, ...]:
    """Names in ``__slots__`` of a class and its bases."""
    names: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))

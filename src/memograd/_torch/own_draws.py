"""Operators that draw from a generator of one thread's own, and not from the one that all threads share.

- ``Own``: an operator can be told which generator to draw from where its schema, or that of an overload with the same
  arguments, has one (``_schema``). Others draw from the shared one, which stands where it is to stand only while they
  run (attention and dropout on accelerators, operators of other libraries).
- What runs below a mode has no autograd, and no part of the mode. Code of the user's has both again, by
  ``_ForceDispatchKeyGuard`` and ``resumed``: no public way leads back.
- ``redirected``: ``torch.manual_seed``, ``fork_rng`` and ``torch.utils.checkpoint`` go past every mode to the
  generators that ``torch.random`` and ``torch.cuda`` hold.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch

from memograd._torch.generators import in_front, is_default_generator
from memograd._torch.modes import TorchDispatchMode, any_modes, dispatch_modes, passed_on
from memograd._torch.operators import schema_of

_CODE = "memograd::call"  # runs code of the user's: as_written.py
_WINDOW = threading.RLock()  # who moves the shared generators for an operator that can be told of no other
_KNOWN = frozenset({"aten", "prim", "prims", "memograd", "inductor", "profiler", "quantized"})
_SHARES = "dropout_p", "dropout"  # an operator that drops nothing draws nothing
_FORWARDED = frozenset({"manual_seed", "seed", "set_state", "get_state", "initial_seed"})


class Own(TorchDispatchMode):
    """What runs inside, in this thread, draws from ``generators``, by device."""

    supports_higher_order_operators = True  # which are passed on

    def __init__(self, generators: dict[str, torch.Generator]) -> None:
        super().__init__()
        self.generators = {_named(torch.device(device)): g for device, g in generators.items()}
        self.covered = 0  # other ones on top of it, which have seen to every draw

    def __enter__(self) -> Own:
        self._outside = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self._below = _own_here()
        if self._below is not None:
            self._below.covered += 1
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        if self._below is not None:
            self._below.covered -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.covered or not may_draw(func):
            return passed_on(func, args, kwargs)
        if func.name() == _CODE:
            with self._outside_of_modes():
                return func(*args, **kwargs)
        own = self.generators.get(_device_of(args, kwargs))
        if own is not None and (told := _told_of(own, func, args, kwargs)) is not None:
            func, args, kwargs = told
            return func(*args, **kwargs)
        if not _is_foreign(func) and (own is None or _drops_nothing(func, args, kwargs)):
            return func(*args, **kwargs)
        with ExitStack() as stack:
            for device, generator in self.generators.items():
                stack.enter_context(_standing_in(device, generator))
            return func(*args, **kwargs)

    @contextmanager
    def _outside_of_modes(self) -> Iterator[None]:
        before, _SUSPENDED.mode = _SUSPENDED.mode, self
        try:
            with torch._C._ForceDispatchKeyGuard(*self._outside):
                yield
        finally:
            _SUSPENDED.mode = before


class _Suspended(threading.local):
    """The mode of this thread that a call of the user's code has come through."""

    mode: Own | None = None


_SUSPENDED = _Suspended()


@contextmanager
def resumed() -> Iterator[None]:
    """What the user's code draws inside comes from where all comes from that runs beside it."""
    mode, _SUSPENDED.mode = _SUSPENDED.mode, None
    if mode is None:
        yield
        return
    with Own(mode.generators):
        yield


def own_generator_here(device: str) -> torch.Generator | None:
    """The one that this thread draws from on ``device``; None where that is the shared one."""
    own = own_generators_here()
    return None if own is None else own.get(_named(torch.device(device)))


def own_generators_here() -> dict[str, torch.Generator] | None:
    """Those that this thread draws from, by device; None where these are the shared ones."""
    mode = _own_here()
    return None if mode is None else mode.generators


def _own_here() -> Own | None:
    """The innermost of this thread. Autograd's threads have the modes of the thread that called it."""
    modes: Any = dispatch_modes() if any_modes() else ()
    return next((m for m in reversed(modes) if isinstance(m, Own)), None)


@contextmanager
def _standing_in(device: str, generator: torch.Generator) -> Iterator[None]:
    """The shared generator of ``device`` stands where ``generator`` does, which goes on from where it is left. Who
    else draws meanwhile draws from there, too."""
    shared = shared_generator(device)
    with _WINDOW:
        now = shared.get_state()
        shared.set_state(generator.get_state())
        try:
            yield
            generator.set_state(shared.get_state())
        finally:
            shared.set_state(now)


def shared_generator(device: str) -> torch.Generator:
    """The generator of ``device`` that all threads draw from."""
    where = torch.device(device)
    if where.type == "cpu":
        return torch.default_generator
    generator: Any = torch.cuda.default_generators[torch.cuda.current_device() if where.index is None else where.index]
    return generator.below if type(generator) is _Redirect else generator


def _told_of(generator: torch.Generator, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """(operator, arguments, keywords): the same call, drawing from ``generator`` where it draws from a shared one; None
    where it takes none."""
    operator, at = _taking(func)
    if operator is None:
        return None
    own = args[at] if at < len(args) else kwargs.get("generator")
    if own is not None and not is_default_generator(own):
        return func, args, kwargs
    if at < len(args):
        return operator, (*args[:at], generator, *args[at + 1 :]), kwargs
    return operator, args, {**kwargs, "generator": generator}


@contextmanager
def redirected() -> Iterator[None]:
    """What ``torch.random`` and ``torch.cuda`` do with the shared generators, they do with this thread's own ones
    inside, and with the shared ones in other threads."""
    with in_front(_Redirect("cpu")), _DEVICES.redirected():
        yield


class _Redirect:
    def __init__(self, device: str, below: Any = None) -> None:
        self.below, self._device = below, device

    def __getattr__(self, name: str) -> Any:
        own = own_generator_here(self._device) if name in _FORWARDED else None
        return getattr(self.below if own is None else own, name)


class _Devices:
    """Those of ``torch.cuda``, redirected while some thread wants it."""

    def __init__(self) -> None:
        self._lock, self._count, self._before = threading.Lock(), 0, ()

    @contextmanager
    def redirected(self) -> Iterator[None]:
        with self._lock:
            if not self._count:
                self._before = torch.cuda.default_generators
                redirects: Any = [_Redirect(f"cuda:{k}", g) for k, g in enumerate(self._before)]
                torch.cuda.default_generators = tuple(redirects)
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    torch.cuda.default_generators = self._before


_DEVICES = _Devices()


@cache
def _taking(func: Any) -> tuple[Any, int]:
    """The overload with these arguments that takes a generator, and at which place; (None, 0) if there is none."""
    names = _names(func)
    if "generator" in names:
        return func, names.index("generator")
    packet = getattr(func, "overloadpacket", None)
    for overload in packet.overloads() if packet is not None else ():
        twin = getattr(packet, overload)
        others = _names(twin)
        if "generator" in others and [n for n in others if n != "generator"] == names:
            return twin, len(names) + 1  # only ever by name
    return None, 0


@cache
def may_draw(func: Any) -> bool:
    """Whether an operator draws, as far as it says; one of another library, which does not say, may."""
    seeded = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
    return seeded or "generator" in _names(func) or _is_foreign(func)


@cache
def _is_foreign(func: Any) -> bool:
    """Whether nobody has said what the operator does inside."""
    return getattr(func, "namespace", "aten") not in _KNOWN


def _drops_nothing(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    shares = [n for n in _SHARES if n in _names(func)]
    by_name = dict(zip(_names(func), args, strict=False)) | kwargs
    return bool(shares) and not any(by_name.get(n) for n in shares)


@cache
def _names(func: Any) -> list[str]:
    schema = schema_of(func)
    return [] if schema is None else [a.name for a in schema.arguments]


def _device_of(args: Any, kwargs: Any) -> str:
    device = kwargs.get("device")
    if device is None:
        some = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)), None)
        device = torch.device("cpu") if some is None else some.device
    return _named(torch.device(device))


def _named(device: torch.device) -> str:
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return str(device)

"""Objects with a state of their own that is no attribute and in no container: arrays, buffers, generators, files.

A graph holds the numbers that its program got out of such an object. There are three kinds::

    x * table[0]                 # an array: what it holds is compared before the graph is used again
    x * random.random()          # a generator: drawing moves it, so the graph serves one call
    x * next(numbers)            # an iterator: the same, and nobody can put it back
"""

from __future__ import annotations

import abc
import array
import contextvars
import ctypes
import decimal
import gc
import io
import locale
import logging
import mmap
import pickle
import queue
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import parametrized_values, put_state, scripted_state, state_of
from memograd.tracing.names import is_machinery
from memograd.tracing.signals import answers_of

_LARGEST = 1 << 28  # bytes that are compared at each call; with more, capture is cheaper
_MOST_PICKLED = 1 << 16
_VALUES = (int, float, complex, bool, str, bytes, type(None))


@dataclass(frozen=True)
class Kind:
    """How objects of one kind are asked for their state and put into it.

    Attributes:
        state: a copy of it, or None where it cannot be known: then each run may find another one.
        guarded: a graph holds for this state alone; else for as long as nobody draws.
        taken: a run takes something from it for good, and it cannot be put back.
    """

    state: Callable[[Any], Any]
    put_back: Callable[[Any, Any], None] | None = None
    guarded: bool = True
    taken: bool = False


class Same:
    """Several values: equal if they are the same objects, or equal numbers or texts."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = tuple(values)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Same)
            and len(self.values) == len(other.values)
            and all(
                a is b or (type(a) is type(b) and type(a) in _VALUES and a == b)
                for a, b in zip(self.values, other.values, strict=True)
            )
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]


# -- generators of random numbers --------------------------------------------------------------------------------------


def is_generator(value: Any) -> bool:
    """A generator of Python's or NumPy's that a program holds itself."""
    if isinstance(value, random.Random):
        return type(value) is not random.SystemRandom
    return type(value).__module__.startswith("numpy.random") and any(
        hasattr(value, name) for name in ("bit_generator", "get_state", "state")
    )


def _drawn(generator: Any) -> bytes:
    bits: Any = getattr(generator, "bit_generator", generator)
    if hasattr(bits, "state"):
        return pickle.dumps(bits.state)
    return pickle.dumps(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _draw_again(generator: Any, state: bytes) -> None:
    bits: Any = getattr(generator, "bit_generator", generator)
    content = pickle.loads(state)  # our own bytes
    if hasattr(bits, "state"):
        bits.state = content
    elif hasattr(generator, "setstate"):
        generator.setstate(content)
    else:
        generator.set_state(content)


GENERATOR = Kind(_drawn, _draw_again, guarded=False)
TORCH_GENERATOR = Kind(state_of, put_state, guarded=False)
PARAMETRIZED = Kind(lambda _: _parametrized())  # what ``parametrize.cached()`` keeps
UNKNOWN = Kind(lambda _: None)
TAKEN = Kind(lambda _: None, taken=True)  # an iterator, a file
ANSWER = Kind(lambda function: repr(function()))  # of a function without arguments
DECIMALS = Kind(  # how decimal numbers are computed
    lambda _: _digits(decimal.getcontext()), lambda _, state: _set_digits(decimal.getcontext(), state)
)
NUMPYS = Kind(lambda _: _of_numpy().geterr(), lambda _, state: _of_numpy().seterr(**state))  # what it makes of errors
NUMPYS_TEXTS = Kind(lambda _: repr(_of_numpy().get_printoptions()))
LOCALE = Kind(lambda _: (locale.localeconv(), locale.setlocale(locale.LC_ALL)))
REGISTERED = Kind(lambda _: abc.get_cache_token())  # which classes count as which abstract ones
OF_A_LIBRARY = (DECIMALS, NUMPYS, NUMPYS_TEXTS, LOCALE)  # one state for all that the program asks of it
BIG = Kind(lambda container: _numbers(container.values() if isinstance(container, dict) else container))


def _parametrized() -> tuple[Any, ...]:
    values = parametrized_values()
    return ("off",) if values is None else tuple([(key, id(tensor)) for key, tensor in values.items()])


_OF_DECIMALS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _digits(context: decimal.Context) -> tuple[Any, ...]:
    return tuple([getattr(context, name) for name in _OF_DECIMALS])


def _set_digits(context: decimal.Context, state: tuple[Any, ...]) -> None:
    for name, value in zip(_OF_DECIMALS, state, strict=True):
        setattr(context, name, value)


def _of_numpy() -> Any:
    return sys.modules["numpy"]


def _numbers(values: Iterable[Any]) -> tuple[Any, ...]:
    return (*map(type, values), *values)


# -- what holds bytes --------------------------------------------------------------------------------------------------


def _bytes(value: Any) -> Any:
    return bytes(value) if memoryview(value).nbytes <= _LARGEST else None


def _fill_bytearray(value: bytearray, state: bytes) -> None:
    value[:] = state


def _fill_array(value: array.array[Any], state: bytes) -> None:
    del value[:]
    value.frombytes(state)


def _fill_view(value: memoryview, state: bytes) -> None:
    if not value.readonly and value.contiguous:
        value.cast("B")[:] = state


def _fill_memory(value: Any, state: bytes) -> None:
    ctypes.memmove(ctypes.addressof(value), state, len(state))


def _text(value: io.StringIO | io.BytesIO) -> Any:
    return (value.getvalue(), value.tell()) if not value.closed else ()


def _write_text(value: Any, state: Any) -> None:
    if state and not value.closed:
        value.seek(0)
        value.truncate()
        value.write(state[0])
        value.seek(state[1])


def _numpy_state(value: Any) -> Any:
    if value.nbytes > _LARGEST:
        return None
    held = Same(value.flat) if value.dtype.hasobject else value.tobytes()
    masked = hasattr(value, "_mask") and hasattr(value, "_data")  # numpy.ma: what is hidden counts, too
    parts = (value._data.tobytes(), bytes(memoryview(value._mask))) if masked and not value.dtype.hasobject else ()
    return (value.shape, value.dtype.str, value.flags.writeable, held, parts)


def _numpy_fill(value: Any, state: Any) -> None:
    numpy: Any = sys.modules["numpy"]
    shape, _, _, held, parts = state
    if value.shape == shape and value.flags.writeable and not parts:
        if isinstance(held, Same):
            for k, item in enumerate(held.values):
                value.flat[k] = item
        else:
            value[...] = numpy.frombuffer(held, dtype=value.dtype).reshape(shape)


# -- what holds other objects, which the program gets hold of as well --------------------------------------------------


def _variable(value: contextvars.ContextVar[Any]) -> Same | None:
    try:
        return Same([value.get()])
    except LookupError:  # once it is set, nobody can make that undone
        return None


def _set_variable(value: contextvars.ContextVar[Any], state: Same) -> None:
    value.set(state.values[0])


def _set_context(value: contextvars.Context, state: Same) -> None:
    for variable, held in zip(state.values[::2], state.values[1::2], strict=True):
        value.run(variable.set, held)


def _own_thread(value: threading.local) -> Same:
    return Same([x for pair in value.__dict__.items() for x in pair])


def _own_thread_again(value: threading.local, state: Same) -> None:
    value.__dict__.clear()
    value.__dict__.update(zip(state.values[::2], state.values[1::2], strict=True))


def scripted(value: torch.jit.ScriptModule) -> Same:
    return Same(scripted_state(value).values())


def _put_scripted(value: torch.jit.ScriptModule, state: Same) -> None:
    for ((holder, name), now), before in zip(scripted_state(value).items(), state.values, strict=True):
        if Same([now]) != Same([before]):
            holder.setattr(name, before)


def inside(value: Any) -> list[Any]:
    """Python objects that such an object holds."""
    if isinstance(value, contextvars.ContextVar):
        return [value.get(None)]
    if isinstance(value, contextvars.Context):
        return list(value.values())
    if isinstance(value, threading.local):
        return list(value.__dict__.values())
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, weakref.ProxyTypes):
        try:
            return [value.__reduce_ex__.__self__]  # pyright: ignore[reportFunctionMemberAccess]
        except ReferenceError:
            return []
    if isinstance(value, _VIEWS):
        return gc.get_referents(value)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.hasobject:
        return list(value.flat)
    return []


def _level(logger: logging.Logger) -> int:
    """From which level on it logs: its own or that of a logger around it, and what is disabled for all."""
    return max(logger.getEffectiveLevel(), logger.manager.disable + 1)


_VIEWS: Any = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))
_KINDS: list[tuple[Any, Kind]] = [
    (bytearray, Kind(_bytes, _fill_bytearray)),
    (array.array, Kind(_bytes, _fill_array)),
    (memoryview, Kind(_bytes, _fill_view)),
    (
        mmap.mmap,
        Kind(lambda m: m[:] if len(m) <= _LARGEST else None, lambda m, state: m.__setitem__(slice(None), state)),
    ),
    ((ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union), Kind(_bytes, _fill_memory)),
    ((io.StringIO, io.BytesIO), Kind(_text, _write_text)),
    (contextvars.ContextVar, Kind(_variable, _set_variable)),
    (contextvars.Context, Kind(lambda context: Same(x for pair in context.items() for x in pair), _set_context)),
    (decimal.Context, Kind(_digits, _set_digits)),
    (torch.Generator, TORCH_GENERATOR),
    (torch.jit.ScriptModule, Kind(scripted, _put_scripted)),
    (threading.local, Kind(_own_thread, _own_thread_again)),
    (weakref.ref, Kind(lambda ref: (ref() is None,))),
    ((ctypes._Pointer, torch.UntypedStorage, torch.TypedStorage), UNKNOWN),
    ((io.IOBase, queue.SimpleQueue), TAKEN),
    (logging.Logger, Kind(lambda logger: (_level(logger), logger.disabled))),
]
_FED = frozenset(  # modules of the standard library whose objects go on from what they were given
    {"_hashlib", "_md5", "_sha1", "_sha2", "_sha3", "_blake2", "_hmac", "zlib", "_bz2", "_lzma", "pyexpat"}
)
_NUMPY = Kind(_numpy_state, _numpy_fill)


def kind_of(value: Any) -> Kind | None:
    """None for objects without such a state."""
    if is_generator(value):
        return GENERATOR
    if value is sys.stdout or value is sys.stderr:
        return None
    for classes, kind in _KINDS:
        if isinstance(value, classes):
            return kind
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _NUMPY
    if (answers := answers_of(value)) is not None:
        return Kind(answers)
    cls = type(value)
    if cls.__module__ in _FED:
        return TAKEN
    if hasattr(cls, "__next__"):
        return None if _in_python(cls) and not is_machinery(cls.__module__) else TAKEN
    return None if is_machinery(cls.__module__) or callable(value) or _in_python(cls) else _PICKLED


def _in_python(cls: type) -> bool:
    """Whether a class is written in Python, so that its objects have attributes, which are seen."""
    return any("__dict__" in vars(c) or "__slots__" in vars(c) for c in cls.__mro__)


def _pickled(value: Any) -> bytes | None:
    try:
        state = pickle.dumps(value)
    except Exception:
        return None
    return state if len(state) <= _MOST_PICKLED else None


_PICKLED = Kind(_pickled)  # of a library written in C

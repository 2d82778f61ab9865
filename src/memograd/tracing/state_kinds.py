"""Objects with a state of their own that is no attribute and in no container: arrays, buffers, generators, files.

A graph holds the numbers that its program got out of such an object. There are three kinds::

    x * table[0]                 # an array: what it holds is compared before the graph is used again
    x * random.random()          # a generator: drawing moves it, so the graph serves one call
    x * next(numbers)            # an iterator: the same, and nobody can put it back
"""

from __future__ import annotations

import array
import contextvars
import ctypes
import decimal
import functools
import io
import logging
import mmap
import pickle
import queue
import sys
import threading
import types
import weakref
from typing import Any

import torch

from memograd.tracing.kinds import holders, memory
from memograd.tracing.kinds.generators import GENERATOR, SHARED_GENERATOR, TORCH_GENERATOR, is_generator, is_shared
from memograd.tracing.kinds.kind import LARGEST, TAKEN, UNKNOWN, Kind, Same
from memograd.tracing.kinds.libraries import digits, set_digits
from memograd.tracing.kinds.signals import signal_of
from memograd.tracing.names import is_machinery

_MOST_PICKLED = 1 << 16
_OF_C = (types.MethodDescriptorType, types.GetSetDescriptorType)  # what a class has that is written in C


def _level(logger: logging.Logger) -> int:
    """From which level on it logs: its own or that of a logger around it, and what is disabled for all."""
    return max(logger.getEffectiveLevel(), logger.manager.disable + 1)


_KINDS: list[tuple[Any, Kind]] = [
    (bytearray, Kind(memory.content, memory.fill_bytearray)),
    (array.array, Kind(memory.content, memory.fill_array)),
    (memoryview, Kind(memory.content, memory.fill_view)),
    (
        mmap.mmap,
        Kind(lambda m: m[:] if len(m) <= LARGEST else None, lambda m, state: m.__setitem__(slice(None), state)),
    ),
    ((ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union), Kind(memory.content, memory.fill_memory)),
    ((io.StringIO, io.BytesIO), Kind(memory.written, memory.write_text)),
    (contextvars.ContextVar, Kind(holders.variable, holders.set_variable)),
    (contextvars.Context, Kind(lambda context: Same(x for pair in context.items() for x in pair), holders.set_context)),
    (decimal.Context, Kind(digits, set_digits)),
    (torch.Generator, TORCH_GENERATOR),
    (torch.jit.ScriptModule, Kind(holders.scripted, holders.put_scripted)),
    (threading.local, Kind(holders.own_thread, holders.own_thread_again)),
    (weakref.ref, Kind(lambda ref: (ref() is None,))),
    ((ctypes._Pointer, torch.UntypedStorage, torch.TypedStorage), UNKNOWN),
    ((io.IOBase, queue.SimpleQueue), TAKEN),
    (logging.Logger, Kind(lambda logger: (_level(logger), logger.disabled))),
]
_FED = frozenset(  # modules of the standard library whose objects go on from what they were given
    {"_hashlib", "_md5", "_sha1", "_sha2", "_sha3", "_blake2", "_hmac", "zlib", "_bz2", "_lzma", "pyexpat"}
)
_NUMPY = Kind(memory.numpy_state, memory.numpy_fill)


def kind_of(value: Any) -> Kind | None:
    """None for objects without such a state."""
    if is_generator(value):
        return SHARED_GENERATOR if is_shared(value) else GENERATOR
    if value is sys.stdout or value is sys.stderr:
        return None
    for classes, kind in _KINDS:
        if isinstance(value, classes):
            return kind
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _NUMPY
    if (signal := signal_of(value)) is not None:
        return signal
    cls = type(value)
    if cls.__module__ in _FED:
        return TAKEN
    if hasattr(cls, "__next__"):
        return None if _in_python(cls) and not is_machinery(cls.__module__) else TAKEN
    return None if is_machinery(cls.__module__) or callable(value) or _in_python(cls) else _PICKLED


@functools.lru_cache(maxsize=256)
def _in_python(cls: type) -> bool:
    """Whether a class is written in Python, so that its objects have attributes, which are seen; and not on top of one
    that a library has written in C (a table of pandas)."""
    if any(not is_machinery(c.__module__) and any(map(_in_c, vars(c).items())) for c in cls.__mro__):
        return False
    return any("__dict__" in vars(c) or "__slots__" in vars(c) for c in cls.__mro__)


def _in_c(attribute: tuple[str, Any]) -> bool:
    name, value = attribute
    return type(value) in _OF_C and name not in ("__dict__", "__weakref__")


def _pickled(value: Any) -> bytes | None:
    try:
        state = pickle.dumps(value)
    except Exception:
        return None
    return state if len(state) <= _MOST_PICKLED else None


_PICKLED = Kind(_pickled)  # of a library written in C

"""What holds bytes and numbers: buffers, arrays, texts that are written."""

from __future__ import annotations

import array
import ctypes
import io
import sys
from typing import Any

from memograd.tracing.kinds.kind import LARGEST, Same


def content(value: Any) -> Any:
    return bytes(value) if memoryview(value).nbytes <= LARGEST else None


def fill_bytearray(value: bytearray, state: bytes) -> None:
    value[:] = state


def fill_array(value: array.array[Any], state: bytes) -> None:
    del value[:]
    value.frombytes(state)


def fill_view(value: memoryview, state: bytes) -> None:
    if not value.readonly and value.contiguous:
        value.cast("B")[:] = state


def fill_memory(value: Any, state: bytes) -> None:
    ctypes.memmove(ctypes.addressof(value), state, len(state))


def written(value: io.StringIO | io.BytesIO) -> Any:
    return (value.getvalue(), value.tell()) if not value.closed else ()


def write_text(value: Any, state: Any) -> None:
    if state and not value.closed:
        value.seek(0)
        value.truncate()
        value.write(state[0])
        value.seek(state[1])


def numpy_state(value: Any) -> Any:
    if value.nbytes > LARGEST:
        return None
    held = Same(value.flat) if value.dtype.hasobject else value.tobytes()
    masked = hasattr(value, "_mask") and hasattr(value, "_data")  # numpy.ma: what is hidden counts, too
    parts = (value._data.tobytes(), bytes(memoryview(value._mask))) if masked and not value.dtype.hasobject else ()
    return (value.shape, value.dtype.str, value.flags.writeable, held, parts)


def numpy_fill(value: Any, state: Any) -> None:
    numpy: Any = sys.modules["numpy"]
    shape, _, _, held, parts = state
    if value.shape == shape and value.flags.writeable and not parts:
        if isinstance(held, Same):
            for k, item in enumerate(held.values):
                value.flat[k] = item
        else:
            value[...] = numpy.frombuffer(held, dtype=value.dtype).reshape(shape)

"""Tensors with shape, dtype, strides and device but no data, on which a program is traced.

The public ``torch.export`` is built on them, but forgets ``detach`` and ``no_grad`` when it decomposes, cannot nest (a
gradient inside a captured function), and costs 0.25 s for the smallest graph.

- ``FakeTensorMode`` / ``FakeTensor``: PyTorch's own. The mode keeps what it is doing on itself, for one thread; ours
  (``FAKE``) keeps that by thread.
- ``shapes_of`` (``register_op_impl``): tells fake tensors the shapes of an operator on which they give up
  (``tracing/shapes.py``).
- ``geometry_of`` / ``fake_of``: a tensor without data made of its geometry. Asking the mode for one is a call like any
  other and takes 75 µs, of which 60 are spent on finding out what was asked.
- ``forget_shapes``: the cache of ``FakeTensorMode`` is for ever. And what it remembers of an operator of forward mode,
  which makes memory as large as another tensor's, is wrong the second time; there is no setting by operator.
"""

from __future__ import annotations

import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_impls import register_op_impl
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from memograd._torch.functorch import outside_torch_func
from memograd._torch.modes import MODES_BEFORE, unseen

# Raised where a value (not a shape) of a tensor would decide what happens next.
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
_NO_DATA = (
    "data is not allocated",
    "Cannot access data pointer",
    ".numpy() is not supported",
    "passed to FakeTensor.__format__",
)
UNSUPPORTED = (UnsupportedOperatorException, NotImplementedError)


class _ByThread:
    """An attribute of the fake mode that is another one in each thread; ``name`` is that of PyTorch's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, mode: Any, owner: type) -> Any:
        return getattr(mode.own, self.name)

    def __set__(self, mode: Any, value: Any) -> None:
        setattr(mode.own, self.name, value)


class _Own(threading.local):
    """What a thread's share of the mode starts from: that of a mode nobody has used."""

    def __init__(self) -> None:
        super().__init__()
        unused = FakeTensorMode(allow_non_fake_inputs=True)
        self.enter_stack = unused.enter_stack
        self.in_kernel_invocation = unused.in_kernel_invocation
        self.fake_tensor_converter = unused.fake_tensor_converter


class _FakeMode(FakeTensorMode):
    """The fake mode for several threads at once: whether it is entered, whether a kernel is running (tensors then say
    that their device is ``meta``), and the numbering of real tensors that it meets are each thread's own."""

    enter_stack = _ByThread()  # pyright: ignore[reportAssignmentType]
    in_kernel_invocation = _ByThread()  # pyright: ignore[reportAssignmentType]
    fake_tensor_converter = _ByThread()

    def __init__(self) -> None:
        self.own = _Own()
        super().__init__(allow_non_fake_inputs=True)
        vars(self).update(MODES_BEFORE)

    def _cached_dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Not from memory what is as large as another tensor's memory: only shapes and strides are remembered."""
        forgotten = func is torch.ops.aten._new_zeros_with_same_feature_meta.default
        return (self._dispatch_impl if forgotten else super()._cached_dispatch_impl)(func, types, args, kwargs)

    def __deepcopy__(self, memo: Any) -> _FakeMode:
        return self  # a program that copies one of its tensors gets one of the same mode

    def __getattr__(self, name: str) -> Any:
        """Whoever uses the mode for the first time makes it ready."""
        if "own" in vars(self):
            raise AttributeError(f"the mode of tensors without data has no attribute {name!r}")
        self.prepare()
        return getattr(self, name)

    def prepare(self) -> None:
        """Load what PyTorch's fake tensors need (Dynamo and sympy: more than a second), out of sight of modes, filters
        of warnings and transforms that are on where the first program is captured."""
        if "own" in vars(self):
            return
        with _PREPARING, outside_torch_func(), unseen(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "own" not in vars(self):
                vars(self).update(vars(_FakeMode()))  # at once: another thread sees all of it or nothing


_PREPARING = threading.Lock()
# One mode for the process: nested captures and derivatives of graphs share their fake tensors, also across threads. It
# is made without its attributes, which its first use adds, so that importing memograd waits for no compiler.
FAKE = _FakeMode.__new__(_FakeMode)


_OF_PYTORCH = ("_dynamo", "_specialize_on", "_has_dynamo")  # ``torch._dynamo.mark_dynamic``


@functools.cache
def _own_attributes() -> frozenset[str]:
    """Names that PyTorch has put in the ``__dict__`` of a tensor without data, or of a parameter of these."""
    with FAKE:
        return frozenset(vars(torch.empty(0))) | {"_is_param"}


def attributes_of(tensor: torch.Tensor) -> dict[str, Any]:
    """What somebody has noted on a tensor (``x.scale = 2``), or on a stand-in."""
    own: Any = tensor.__dict__
    if not own:
        return {}
    if isinstance(tensor, FakeTensor):
        return {name: value for name, value in own.items() if name not in _own_attributes()}
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return {}  # what a subclass is made of
    return {name: value for name, value in own.items() if not name.startswith(_OF_PYTORCH)}


def fake_like(tensor: torch.Tensor) -> torch.Tensor:
    """A fresh fake tensor with the geometry of ``tensor`` (never a memoized one: traces must not share state)."""
    if tensor.layout is torch.sparse_coo:
        return _sparse_fake_like(tensor)
    if tensor.layout is not torch.strided:
        return compressed_fake(tensor.shape, tensor.dtype, tensor.layout, tensor.device)
    with FAKE:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _sparse_fake_like(tensor: torch.Tensor) -> torch.Tensor:
    indices, values = fake_like(tensor._indices()), fake_like(tensor._values())
    with FAKE:
        sparse = torch.sparse_coo_tensor(indices, values, tensor.shape, check_invariants=False)
        return sparse._coalesced_(tensor.is_coalesced())


def compressed_fake(
    shape: Sequence[int], dtype: torch.dtype, layout: torch.layout, device: torch.device
) -> torch.Tensor:
    """A fake CSR or CSC matrix, which has no entries: how many a real one has cannot be told to it (PyTorch's functions
    of its parts say that these lie on two devices)."""
    if layout not in (torch.sparse_csr, torch.sparse_csc) or len(shape) != 2:
        raise NotImplementedError(
            f"a tensor of layout {layout} and shape {tuple(shape)} has no stand-in; use to_dense()"
        )
    with FAKE:
        indices = torch.zeros(2, 0, dtype=torch.long, device=device)
        values = torch.zeros(0, dtype=dtype, device=device)
        return torch.sparse_coo_tensor(indices, values, torch.Size(shape)).to_sparse(layout=layout)


def is_fake(value: Any) -> bool:
    """True for a tensor without data, of a capture of ours (``torch.compile`` has such tensors of its own)."""
    return isinstance(value, FakeTensor) and value.fake_mode is FAKE


def has_data(tensor: torch.Tensor) -> bool:
    """False for a tensor that has a shape and no numbers, whosever it is: no two results of it can be compared."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta)


Geometry = tuple[Any, ...]  # shape, strides, dtype, device, offset in its memory, bytes of that memory


def geometry_of(value: Any) -> Geometry | None:
    """How an ordinary tensor of ours without data lies in memory; None for anything else, also for one whose numbers
    PyTorch knows all the same, or reads another way round."""
    if type(value) is not FakeTensor or value.fake_mode is not FAKE or value.constant is not None:
        return None
    with torch._C.DisableTorchFunction():
        if value.layout is not torch.strided or value.is_conj() or value.is_neg():
            return None
        size = value.untyped_storage().nbytes()
        return value.shape, value.stride(), value.dtype, value.fake_device, value.storage_offset(), size


def fake_of(geometry: Geometry) -> torch.Tensor:
    """A new tensor without data that lies so, at the beginning of memory of its own that is no larger than it; nobody
    is asked how that would be."""
    shape, strides, dtype, device = geometry[:4]
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        return FakeTensor(FAKE, torch.empty_strided(shape, strides, dtype=dtype, device="meta"), device)


def shapes_of(*operators: Any) -> Callable[[Any], Any]:
    """Enter a function of (mode, operator, arguments) that makes the results of these operators on our tensors without
    data. Those of others (``torch.compile``) are left alone."""

    def enter(function: Any) -> Any:
        @register_op_impl(list(operators))
        def ours(mode: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
            return function(mode, func, *args, **kwargs) if mode is FAKE else NotImplemented

        return ours

    return enter


def forget_shapes(most: int) -> None:
    """Empty PyTorch's cache of what operators make of tensors without data, if it holds more than so many entries: it
    has no limit of its own, and a program that runs on ever new sizes fills it."""
    if len(FakeTensorMode.cache) > most:
        FakeTensorMode.cache_clear()


def needs_data(error: Exception) -> bool:
    """True when C++ code (``tensor_split``, ``.numpy()``) wanted the data of a tensor that has none."""
    return any(text in str(error) for text in _NO_DATA)


class _Quiet(threading.local):
    depth = 0

    def __call__(self, record: logging.LogRecord) -> bool:
        return not self.depth or record.levelno >= logging.CRITICAL


_QUIET = _Quiet()
logging.getLogger(FakeTensorMode.__module__).addFilter(_QUIET)


@contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors log an error with a traceback before they raise it; we report it once, as an exception."""
    _QUIET.depth += 1
    try:
        yield
    finally:
        _QUIET.depth -= 1

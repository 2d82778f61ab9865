"""The one door to PyTorch internals.

Everything here is private API of PyTorch that has no public counterpart. Each entry says why it is needed;
``tests/test_torch_adapter.py`` fails with a clear message when one of them changes.

- ``FakeTensorMode`` / ``FakeTensor``: tensors with shape, dtype, strides and device but no data. The public
  ``torch.export`` is built on them, but forgets ``detach`` and ``no_grad`` when it decomposes, cannot nest (a
  gradient inside a captured function), and costs 0.25 s for the smallest graph. The mode keeps what it is doing on
  itself, for one thread; ours keeps that by thread.
- ``TorchDispatchMode``: sees every ATen call below autograd. Documented, but lives in a private module. PyTorch notes
  for the whole process whether one is on, and each notes what to go back to; ours share their notes.
- ``without_modes``: what runs inside is neither recorded nor faked (``_disable_current_modes``).
- ``register_op_impl``: tells fake tensors the shapes of an operator on which they give up (``tracing/shapes.py``).
- ``suggested_format``: ``Tensor.suggest_memory_format`` of C++, by which kernels choose the strides of their results.
- ``elementwise_strides``: how a result of several operands lies, in the order of theirs.
- ``is_lent``: asks a tensor for its storage while a program is captured, without the capture seeing the question
  (``DisableTorchFunction``).
- ``default_device``: ``torch.get_default_device`` looks for a function mode and takes 20 µs; whether there is any mode
  (``_len_torch_function_stack``) takes none.
- ``unseen``: function modes are switched off by ``DisableTorchFunction`` only.
- ``state_of`` / ``put_state``: where a ``torch.Generator`` stands, which is a tensor, is asked while a program is
  captured. ``is_default_generator``: C++ hands out several objects for one generator.
- ``SingleLevelFunction``: where ``Function.apply`` goes on, of every custom ``autograd.Function``; a class's own
  ``apply`` may have been taken before we could put another one in its place.
- ``register_hook``: what all hooks on nodes of autograd's graph go by.
- ``run_backward``: what ``torch.autograd.grad`` and ``backward`` call, which has a say in what becomes of the graph.
- ``dispatch_modes``: nothing public says which modes this thread is in.
- ``inside_make_fx``: nothing public says that somebody else traces.
- ``registered_backward``: nothing public says whether ``register_autograd`` was called for a custom operator.
- ``is_composite``: no public function tells operators that autograd takes apart from those it differentiates.
- ``inductor_graph``, ``inductor_function``: a graph through Inductor. The public ``torch.compile`` guards every call
  (50 µs, more than a small kernel takes).
- ``schema_of``: what an operator takes, returns and writes to. PyTorch's own code reads ``_schema``; there is no public
  name for it.
- ``backward_class``: the class of the node that an ``autograd.Function`` puts into autograd's graph; a subclass that is
  made while a program runs needs one of its own.
- ``has_step_hooks`` / ``note_step``: nothing public says whether an optimizer has hooks, or tells schedulers that it
  has stepped.
- ``one_graph``: inside a call of ``DistributedDataParallel``, Dynamo cuts what ``torch.compile`` is given at the bounds
  of that one's buckets, as if it were the model. A setting of Dynamo's keeps it from that.
- ``hooks_of`` / ``has_hooks`` / ``without_hooks`` / ``module_hooks`` / ``hooks_by_kind`` / ``forward_hooks``: what
  users registered on a parameter or a module. PyTorch has functions to register a hook and none to ask for one.
- ``forget_shapes``: the cache of ``FakeTensorMode`` is for ever. And what it remembers of an operator of forward mode,
  which makes memory as large as another tensor's, is wrong the second time; there is no setting by operator.
- ``without_saved_tensor_hooks``: the public way to keep them out (``disable_saved_tensors_hooks``) raises an error.
- ``is_wrapped``, ``wrapped_value``, ``level_of``, ``inside_torch_func``, ``outside_torch_func``: ``torch.func``'s own
  transforms hand out wrapped tensors (a whole batch that looks like one sample). A program inside ``vmap`` has to be
  captured as if there were none; no public function tells a wrapped tensor, or leaves the transforms for a while.
- ``geometry_of`` / ``fake_of`` / ``share_memory``: a tensor without data made of its geometry. Asking the mode for one
  is a call like any other and takes 75 µs, of which 60 are spent on finding out what was asked.
- ``has_batching_rule``: whether ``vmap`` runs an operator once for a whole batch. Public ``vmap`` only warns.
- ``tables_of``: what a module holds is public one by one (``named_buffers``), where it holds it is not.
- ``scripted_state``: what a module compiled by ``torch.jit.script`` holds is in C++; nothing public lists its
  attributes.
- ``ScriptMethod``, ``optimized_execution``, ``forget_plans``: TorchScript differentiates some operators by itself. What
  would keep it from that (not documented) comes too late once it has decided how to run a function, and keeps that.
- ``put_generator``: ``torch.manual_seed`` and its like go past every mode to the generator that ``torch.random`` holds.
- ``apply_alone``: what ``Function.apply`` does for a function that ``torch.func`` has no part in, without asking for
  its transforms again (3 µs of a call of 30).
- ``dynamo_listens``: whether ``torch.compile`` is at work in this thread. The public way to be left alone
  (``torch.compiler.disable``) takes 15 µs a call, also where nobody compiles anything.
- ``is_batched``, ``unbatched``, ``batched``: the cotangents of ``autograd.grad(..., is_grads_batched=True)`` come in
  tensors that nothing public knows.
- ``pytree``: flattening of nested containers, with the registrations other libraries (transformers) made.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import nn, optim

try:
    from torch._C._dynamo import eval_frame as _eval_frame
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as outside_torch_func
    from torch._prims_common import compute_elementwise_output_strides, suggest_memory_format
    from torch._subclasses.fake_impls import register_op_impl
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensor,
        FakeTensorMode,
        UnsupportedOperatorException,
    )
    from torch.autograd.function import _SingleLevelFunction as SingleLevelFunction  # noqa: F401
    from torch.jit._fuser import optimized_execution  # noqa: F401
    from torch.nn.modules import module as _module
    from torch.utils import _pytree as pytree  # noqa: F401  (for the rest of the library)
    from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
    from torch.utils._python_dispatch import _disable_current_modes as without_modes
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes
except ImportError as error:
    raise ImportError(
        f"memograd reads internals of PyTorch 2.11 to 2.13, and PyTorch {torch.__version__} lacks one: {error}. "
        "Install one of those versions"
    ) from error

# Raised where a value (not a shape) of a tensor would decide what happens next.
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
_NO_DATA = (
    "data is not allocated",
    "Cannot access data pointer",
    ".numpy() is not supported",
    "passed to FakeTensor.__format__",
)
UNSUPPORTED = (UnsupportedOperatorException, NotImplementedError)

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_BEFORE: dict[str, deque[bool]] = {
    name: deque()
    for name in (
        "old_dispatch_mode_flags",
        "old_non_infra_dispatch_mode_flags",
        "old_without_ignore_compile_internals_dispatch_mode_flags",
    )
}


class TorchDispatchMode(DispatchMode):
    """A mode that may be left in another order than it was entered, as happens when several threads have one on each:
    what the first one found is what the last one leaves. (``torch.compile`` does nothing while it is told that a mode
    is on.)"""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(_BEFORE)


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
        vars(self).update(_BEFORE)

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


register_hook = torch.autograd.Function._register_hook  # pyright: ignore[reportAttributeAccessIssue]
run_backward = torch.autograd._engine_run_backward  # pyright: ignore[reportPrivateImportUsage]


def fake_like(tensor: torch.Tensor) -> torch.Tensor:
    """A fresh fake tensor with the geometry of ``tensor`` (never a memoized one: traces must not share state)."""
    if tensor.layout is torch.sparse_coo:
        return _sparse_fake_like(tensor)
    if tensor.layout is not torch.strided:
        return compressed_fake(tensor.shape, tensor.dtype, tensor.layout, tensor.device)
    with FAKE:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def address(tensor: torch.Tensor) -> int:
    """Where the elements of ``tensor`` begin, of a sparse one its values."""
    return (tensor._values() if tensor.layout is torch.sparse_coo else tensor).data_ptr()


def entries_of(tensor: torch.Tensor) -> int:
    """How many entries a sparse tensor has, those that are given twice counted twice."""
    return tensor._nnz()


def memory_of(tensor: torch.Tensor) -> int:
    """Which memory ``tensor`` looks at, of a sparse one its values."""
    return (tensor._values() if tensor.layout is torch.sparse_coo else tensor).untyped_storage().data_ptr()


def _sparse_fake_like(tensor: torch.Tensor) -> torch.Tensor:
    indices, values = fake_like(tensor._indices()), fake_like(tensor._values())
    with FAKE:
        made = torch.sparse_coo_tensor(indices, values, tensor.shape, check_invariants=False)
        return made._coalesced_(tensor.is_coalesced())


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


def copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the very strides of ``tensor``, also where its elements overlap; nobody's view."""
    tensor = tensor.detach()
    if keeps_its_numbers_elsewhere(tensor) or tensor.layout is torch.sparse_coo:
        return tensor.clone()
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    memory = tensor.as_strided((copy.untyped_storage().nbytes() // copy.element_size(),), (1,))
    memory = memory.clone().resolve_conj().resolve_neg()
    return copy.set_(memory.untyped_storage(), 0, copy.shape, copy.stride())


_DISPATCH = attrgetter("__torch_dispatch__")


def keeps_its_numbers_elsewhere(tensor: torch.Tensor) -> bool:
    """True for a subclass that runs operators itself (``__torch_dispatch__``): the memory that it shows may not exist,
    and reading it ends the process."""
    own = _DISPATCH(type(tensor)) is not _DISPATCH(torch.Tensor)
    return own and not isinstance(tensor, FakeTensor)


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


def forget_shapes(most: int) -> None:
    """Empty PyTorch's cache of what operators make of tensors without data, if it holds more than so many entries: it
    has no limit of its own, and a program that runs on ever new sizes fills it."""
    if len(FakeTensorMode.cache) > most:
        FakeTensorMode.cache_clear()


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


def share_memory(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors, with or without data, look at one memory."""
    return torch._C._is_alias_of(first, second)  # pyright: ignore[reportAttributeAccessIssue]


def is_fake(value: Any) -> bool:
    """True for a tensor without data, of a capture of ours (``torch.compile`` has such tensors of its own)."""
    return isinstance(value, FakeTensor) and value.fake_mode is FAKE


def has_data(tensor: torch.Tensor) -> bool:
    """False for a tensor that has a shape and no numbers, whosever it is: no two results of it can be compared."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta)


@contextmanager
def unseen() -> Iterator[None]:
    """No mode sees what runs inside, neither as a function nor as an operator."""
    with torch._C.DisableTorchFunction(), without_modes():
        yield


def default_device() -> torch.device | None:
    """What factories make tensors on; None where nobody has said anything, which costs less to find out."""
    return torch.get_default_device() if torch._C._len_torch_function_stack() else None


def state_of(generator: torch.Generator) -> bytes:
    """Where a generator stands, also while a program is captured: the tensor of its state is no business of a trace."""
    with unseen():
        return bytes(generator.get_state().numpy())


def is_default_generator(generator: torch.Generator) -> bool:
    """Whether it is the one that operators draw from which are given none; C++ hands out other objects for the same."""
    defaults = (torch.default_generator, *torch.cuda.default_generators)
    return any(generator._cdata == g._cdata for g in defaults)  # pyright: ignore[reportAttributeAccessIssue]


def put_state(generator: torch.Generator, state: bytes) -> None:
    """Let ``generator`` draw from there."""
    with unseen():
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def is_lent(tensor: torch.Tensor) -> bool:
    """Whether the memory of ``tensor`` is another library's (``torch.from_numpy``): PyTorch can't make it larger."""
    with torch._C.DisableTorchFunction():
        return not is_fake(tensor) and not tensor.untyped_storage().resizable()


def needs_data(error: Exception) -> bool:
    """True when C++ code (``tensor_split``, ``.numpy()``) wanted the data of a tensor that has none."""
    return any(text in str(error) for text in _NO_DATA)


def generated_function(node: Any) -> str:
    """Name of the ``autograd.Function`` that ``torch.library.custom_op`` makes for the operator of an fx node."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return ""
    return f"GeneratedBackwardFor_{schema.name.replace('::', '_')}_{schema.overload_name or 'default'}"


def inside_torch_func() -> bool:
    """True inside a function that ``torch.func``'s ``vmap``, ``grad``, ``jvp`` or ``functionalize`` transforms."""
    return _functorch.peek_interpreter_stack() is not None


def inside_make_fx() -> bool:
    """True where somebody else traces what runs (``make_fx``, ``torch.export``): their modes are found by name, since
    importing them takes long."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(type(mode).__name__ == "ProxyTorchDispatchMode" for mode in dispatch_modes())


def levels() -> int:
    """How many transforms of ``torch.func`` are under way, one inside the other."""
    return _functorch.get_dynamic_layer_stack_depth()


def is_batched(value: Any) -> bool:
    """Whether a cotangent is one of many at once (``autograd.grad(..., is_grads_batched=True)``), which autograd keeps
    in tensors of a kind of their own, older than ``torch.func``'s."""
    return _functorch.is_legacy_batchedtensor(value)


def unbatched(value: torch.Tensor) -> torch.Tensor | None:
    """Such cotangents as one tensor whose first dimension counts them; None where they are batched once more."""
    rows: Any = torch._remove_batch_dim(value, _batches(), 1, 0)  # pyright: ignore[reportPrivateImportUsage]
    return None if is_batched(rows) else rows


def batched(rows: torch.Tensor) -> torch.Tensor:
    """The other way round."""
    return torch._add_batch_dim(rows, 0, _batches())  # pyright: ignore[reportPrivateImportUsage]


def _batches() -> int:
    """How many batches of cotangents are under way, one inside the other."""
    try:
        return torch._C._vmapmode_increment_nesting() - 1  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        torch._C._vmapmode_decrement_nesting()  # pyright: ignore[reportAttributeAccessIssue]


def is_wrapped(value: Any) -> bool:
    """True for a tensor as ``torch.func``'s transforms hand it to the function."""
    return isinstance(value, torch.Tensor) and _functorch.is_functorch_wrapped_tensor(value)


def level_of(tensor: torch.Tensor) -> int:
    """The transform that wrapped ``tensor``, counted from the outermost, which is 1."""
    return _functorch.maybe_get_level(tensor)


def wrapped_value(tensor: torch.Tensor) -> torch.Tensor | None:
    """The one tensor that stands behind a wrapped one; None where it is a whole batch."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return None
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def is_tracked(tensor: torch.Tensor) -> bool:
    """True where autograd, or a transform of ``torch.func``, will differentiate through what is done to ``tensor``."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return torch.is_grad_enabled() and tensor.requires_grad


def in_forward_mode() -> bool:
    """True where PyTorch's forward mode is under way, its own or that of ``torch.func.jvp``."""
    return torch.autograd.forward_ad._current_level >= 0


def has_batching_rule(operator: Any) -> bool:
    """True where ``vmap`` computes a whole batch by one call of ``operator``, not one sample after the other."""
    keys = ("FuncTorchBatched", "FuncTorchBatchedDecomposition")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key) for key in keys)


def shapes_of(*operators: Any) -> Callable[[Any], Any]:
    """Enter a function of (mode, operator, arguments) that makes the results of these operators on our tensors without
    data. Those of others (``torch.compile``) are left alone."""

    def enter(function: Any) -> Any:
        @register_op_impl(list(operators))
        def ours(mode: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
            return function(mode, func, *args, **kwargs) if mode is FAKE else NotImplemented

        return ours

    return enter


def registered_backward(generated: Any) -> bool:
    """Whether ``register_autograd`` was called for the operator whose ``autograd.Function`` is ``generated``."""
    functions = [generated.backward]
    while functions:
        function = functions.pop()
        free = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for name, cell in zip(free, getattr(function, "__closure__", None) or (), strict=True):
            if name == "info":
                return cell.cell_contents._backward_fn is not None
            if name == "orig_backward":  # an operator with lists of tensors
                functions.append(cell.cell_contents)
    return True


def suggested_format(tensor: torch.Tensor) -> torch.memory_format:
    """Channels last for images and volumes whose channels come last, gaps or not; many kernels lay out their result
    so. (``is_contiguous(memory_format=...)``, the public question, is stricter: it allows no gaps.)"""
    return suggest_memory_format(tensor)


def elementwise_strides(tensors: Sequence[Any]) -> tuple[int, ...]:
    """Strides of an elementwise result of ``tensors`` (and numbers). No public operator shows them for more than two
    operands without computing on the way, and what is computed on the way lies differently."""
    operands = torch.broadcast_tensors(*(t for t in tensors if isinstance(t, torch.Tensor)))
    return tuple(compute_elementwise_output_strides(*operands))


def is_composite(operator: Any) -> bool:
    """True for an operator that autograd sees only as the operators it is composed of (``linear``, ``matmul``)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")


def keeps_roundings(device: str) -> bool:
    """Whether Inductor's kernels on a type of device round to a lower precision where the program does: those for the
    CPU did not before PyTorch 2.13."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return device != "cpu" or version >= (2, 13)


def inductor_function(function: Any, operands: Any) -> Any:
    """``function``, of ATen operators and with a tuple as its result, compiled by Inductor for operands of this
    geometry. Roundings to a lower precision stay where the program has them."""
    return inductor_graph(torch.fx.symbolic_trace(function), operands, {"emulate_precision_casts": True})


def inductor_graph(module: torch.fx.GraphModule, operands: Sequence[Any], options: Any = None) -> Any:
    """A graph of ATen operators compiled by Inductor, as a function of operands of this geometry, without gradients."""
    import torch._inductor as inductor  # slow to import, like the compiler itself

    with torch.no_grad():
        return inductor.compile(module, list(operands), options=options)


def schema_of(operator: Any) -> Any:
    """What an operator takes and returns; None for what is none of PyTorch's (a fused kernel, ``getitem``)."""
    return getattr(operator, "_schema", None)


def apply_alone(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply``, for calls outside of ``torch.func``'s transforms."""
    return super(torch.autograd.Function, function).apply  # pyright: ignore[reportAttributeAccessIssue]


def dynamo_listens() -> bool:
    """Whether ``torch.compile`` traces who asks this, or would compile what is called from here."""
    return torch.compiler.is_dynamo_compiling() or _eval_frame.get_eval_frame_callback() is not None


def backward_class(function: Any, other: Any = None) -> Any:
    """The class of the nodes of an ``autograd.Function``, which is ``other`` from now on (None: as it is)."""
    before = function._backward_cls
    if other is not None:
        function._backward_cls = other
    return before


def has_step_hooks(optimizer: optim.Optimizer) -> bool:
    """Whether hooks of the user's wait for ``optimizer.step()``."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def note_step(optimizer: optim.Optimizer) -> None:
    """The optimizer has stepped, as far as schedulers are concerned: they warn of those that have not."""
    optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]


def hooks_of(tensor: torch.Tensor) -> Any:
    """The table of the hooks on ``tensor``'s gradient; None where there was never one."""
    return tensor._backward_hooks


def has_hooks(leaf: torch.Tensor) -> bool:
    """Whether a ``register_hook`` or ``register_post_accumulate_grad_hook`` of the user's waits for its gradient."""
    return bool(leaf._backward_hooks) or bool(leaf._post_accumulate_grad_hooks)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def one_graph() -> Iterator[None]:
    """What ``torch.compile`` compiles inside is not cut for ``DistributedDataParallel``."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield
        return
    with torch._dynamo.config.patch(optimize_ddp=False):  # pyright: ignore[reportAttributeAccessIssue]
        yield


def needed_inputs(node: Any, surely: Collection[int] = ()) -> tuple[int, ...]:
    """Inside the backward of an ``autograd.Function``: which of its arguments that are tensors are to get a gradient;
    or which of those of another ``node`` that will run in this backward pass.

    ``ctx.needs_input_grad`` says which required one at the call; only the engine knows which of them this backward
    pass was asked for (``autograd.grad(y, x)`` leaves the parameters out), and has no public way to say so. Its answer
    for a leaf that is asked for is an exception, half a millisecond of PyTorch's time: ``surely`` are arguments which
    are taken to be asked for.
    """
    edges = enumerate(node.next_functions)
    return tuple([k for k, (to, _) in edges if to is not None and (k in surely or _will_run(to))])


def _will_run(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that the gradient is asked of
        return True


def free_saved(ctx: Any) -> None:
    """Inside the backward of an ``autograd.Function``: let go of the saved tensors, unless the graph is retained. (The
    engine does so too, at the end; the public way to read them leaves them alive until then.)"""
    ctx.maybe_clear_saved_tensors()


def forward_hooks() -> list[Any]:
    """The hooks around the forward of every module there is."""
    if not (_module._global_forward_pre_hooks or _module._global_forward_hooks):
        return []
    return [*_module._global_forward_pre_hooks.values(), *_module._global_forward_hooks.values()]


@contextmanager
def without_hooks(leaves: Iterable[torch.Tensor]) -> Iterator[None]:
    """Gradients computed inside do not pass through the users' hooks of these tensors."""
    tables = [table for t in leaves for table in (t._backward_hooks, t._post_accumulate_grad_hooks) if table]
    held = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, held, strict=True):
            table.update(hooks)


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """What autograd saves inside does not pass through the hooks that stand around (checkpoints)."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:  # pyright: ignore
        yield
        return
    saved: list[torch.Tensor] = []  # a tensor in a hook's hands may hold itself: emptied afterwards

    def pack(tensor: torch.Tensor) -> int:
        saved.append(tensor)
        return len(saved) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, saved.__getitem__):
        try:
            yield
        finally:
            saved.clear()


_HOOKS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


def module_hooks(root: nn.Module) -> list[dict[int, Any]]:
    """The tables of hooks around forward and backward of all modules below ``root``, and of those for every module
    there is; their keys tell one hook from another."""
    tables = [getattr(_module, f"_global_{name}") for name in _HOOKS]
    return tables + [getattr(m, f"_{name}") for m in root.modules() for name in _HOOKS]


def hooks_by_kind(module: nn.Module | None) -> list[tuple[str, Any]]:
    """(kind, hook) for the hooks of ``module`` itself; None: those for every module there is. Nothing public lists
    them, and who is asked what becomes of hooks must know which there are."""
    tables = {
        kind: getattr(module, f"_{kind}") if module is not None else getattr(_module, f"_global_{kind}")
        for kind in _HOOKS
    }
    return [(kind, hook) for kind, table in tables.items() for hook in table.values()]


def tables_of(module: nn.Module) -> list[dict[str, Any]]:
    """The dicts in which a module keeps its attributes, parameters, buffers and submodules."""
    own = vars(module)
    return [own, *(own[table] for table in ("_parameters", "_buffers", "_modules") if table in own)]


def scripted_state(module: torch.jit.ScriptModule) -> dict[tuple[Any, str], Any]:
    """What it and the modules in it have as attributes: numbers and texts, and tensors (always as the same objects). By
    the object of C++ that holds it and the name."""
    state: dict[tuple[Any, str], Any] = {}
    for part in module.modules():
        own = vars(vars(part).get("_actual_script_module", part))  # that of a traced one holds another
        if "_concrete_type" in own:  # else it is being made
            names = own["_concrete_type"].get_attributes()
            state |= {(own["_c"], name): own["_c"].getattr(name) for name in names}
    return state


ScriptMethod: Any = torch._C.ScriptMethod


def forget_plans(function: Any) -> None:
    """Let TorchScript decide anew how to run a function or method."""
    function._debug_flush_compilation_cache()


def put_generator(generator: Any) -> Any:
    """The generator that the functions of ``torch.random`` set, which is ``generator`` from now on (None: as it is)."""
    before = torch.random.default_generator  # pyright: ignore[reportPrivateImportUsage]
    if generator is not None:
        torch.random.default_generator = generator  # pyright: ignore
    return before

"""What we rely on inside PyTorch, thing by thing (``src/memograd/_torch/``).

When one of these fails after an upgrade of PyTorch, the message says which assumption no longer holds; nothing else
needs to be searched.
"""

from __future__ import annotations

import ast
import inspect
import io
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from single_precision import fp32_precision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.testing._internal.logging_tensor import LoggingTensor
from torch.utils import _python_dispatch as python_dispatch
from torch.utils.flop_counter import FlopCounterMode

from memograd import _torch as adapter
from memograd._torch.fake import _FakeMode

WHY = f"PyTorch {torch.__version__} changed something memograd/_torch relies on: "


def test_an_operator_has_a_quick_way() -> None:
    """The very same operator, for modes as well."""
    seen: list[Any] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    operator, x = torch.ops.aten.tanh_backward.default, torch.rand(3)
    with Watch():
        results = adapter.quick(operator)(x, x), operator(x, x)
    assert torch.equal(*results), WHY + "OpOverload._op"
    assert seen == [operator, operator], WHY + "what a mode sees of OpOverload._op"


def test_what_stands_around_an_operator() -> None:
    assert not adapter.surrounded() and not adapter.others_around()
    with torch.autocast("cpu"):
        assert adapter.surrounded(), WHY + "_is_any_autocast_enabled"
    with FlopCounterMode(display=False):
        assert adapter.surrounded() and adapter.others_around(), WHY + "the count of modes"
    with torch.autograd.forward_ad.dual_level():
        assert adapter.others_around() and not adapter.surrounded(), WHY + "the level of forward mode"
    around: list[bool] = []
    torch.func.grad(lambda x: around.append(adapter.others_around()) or x.sum())(torch.ones(2))
    torch.jit.trace(lambda x: around.append(adapter.others_around()) or x * 2, torch.ones(2), check_trace=False)
    assert around == [True, True], WHY + "peek_interpreter_stack, _is_tracing"


def test_a_sparse_tensor_has_indices_and_values() -> None:
    real = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse()
    fake = adapter.fake_like(real)
    assert fake.is_sparse and fake.is_coalesced() and fake._nnz() == 2, WHY + "sparse fake tensors"
    assert adapter.address(real) == real._values().data_ptr(), WHY + "where a sparse tensor has its values"
    assert torch.equal(adapter.copy_of(real).to_dense(), real.to_dense()), WHY + "copies of sparse tensors"


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc])
def test_a_compressed_fake_tensor_has_a_layout(layout: torch.layout) -> None:
    fake = adapter.fake_like(torch.eye(3, dtype=torch.float64).to_sparse(layout=layout))
    assert fake.layout is layout and fake.shape == (3, 3) and fake.dtype is torch.float64, (
        WHY + "to_sparse of a FakeTensor"
    )


def test_a_fake_tensor_has_a_geometry() -> None:
    real = torch.empty(2, 3, 4, dtype=torch.float64).transpose(0, 2)
    fake = adapter.fake_like(real)
    same = (fake.shape, fake.stride(), fake.dtype, fake.device) == (real.shape, real.stride(), real.dtype, real.device)
    assert adapter.is_fake(fake) and same, WHY + "a FakeTensor keeps shape, strides, dtype and device"
    assert not adapter.is_fake(real)


def test_a_fake_tensor_has_no_data() -> None:
    """2**50 bytes fit only in a tensor that holds none; and nobody can read a value from one."""
    huge = torch.empty(1, dtype=torch.uint8).expand(2**50)
    with adapter.FAKE:
        doubled = torch.empty(2**50, dtype=torch.uint8) * 2
    assert doubled.shape == huge.shape, WHY + "operators on FakeTensors allocate no memory"
    with pytest.raises(adapter.DATA_DEPENDENT), adapter.FAKE:
        torch.ones(()).item()


def test_without_modes_operators_compute() -> None:
    with adapter.FAKE, adapter.without_modes():
        three = torch.ops.aten.full.default([], 3.0)
        assert three.item() == 3.0, WHY + "_disable_current_modes lifts FakeTensorMode"
    with adapter.FAKE:
        assert adapter.is_fake(torch.ones(2)), WHY + "modes come back behind _disable_current_modes"


def test_fake_tensors_are_fresh() -> None:
    real = torch.zeros(2)
    assert adapter.fake_like(real) is not adapter.fake_like(real), WHY + "fake_like returns a new tensor each time"


def test_data_dependent_shapes_raise() -> None:
    with pytest.raises(adapter.DATA_DEPENDENT), adapter.FAKE:
        torch.ones(3).nonzero()


def test_the_data_of_a_tensor_without_any_is_recognized() -> None:
    """Where C++ or numpy asks for it no DATA_DEPENDENT exception is raised; only the text of the error tells."""
    for ask in (lambda: torch.tensor_split(torch.ones(4), torch.tensor([2])), lambda: torch.ones(2).numpy()):
        with pytest.raises(Exception) as caught, adapter.quiet(), adapter.FAKE:
            ask()
        assert adapter.needs_data(caught.value), WHY + f"the error was {caught.value}"
    assert not adapter.needs_data(ValueError("shapes do not match"))


def test_numbers_that_fill_a_tensor_from_a_list_are_read_past_the_dispatcher() -> None:
    seen = []

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.__float__:
                seen.append(adapter.past_the_dispatcher())
            return func(*args, **kwargs or {})

    with Watching():
        float(torch.ones(()))
        torch.DoubleTensor([torch.ones(())])
    assert seen == [False, True], WHY + "the key Python is excluded while C++ fills a tensor"


def test_a_pickle_of_a_tensor_comes_from_one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = getattr(torch.Tensor, adapter.PICKLES_BY), []
    monkeypatch.setattr(torch.Tensor, adapter.PICKLES_BY, lambda x, protocol: seen.append(x) or method(x, protocol))
    x = torch.ones(2)
    pickle.dumps(x), torch.save([x], io.BytesIO())
    assert len(seen) == 2, WHY + "Tensor.__reduce_ex__ calls it"


def test_copies_lie_in_memory_as_their_originals() -> None:
    base = torch.randn(4, 6)
    z = torch.randn(3, dtype=torch.complex64)
    views = [
        base[1:, ::2].t(),
        base[0].expand(3, 6),
        base[:0],
        base.as_strided((3, 3), (1, 1)),
        z.conj(),
        z.conj().imag,
    ]
    for x in views:
        copy = adapter.copy_of(x)
        assert (copy.stride(), copy.dtype) == (x.stride(), x.dtype) and torch.equal(copy, x)
        assert copy._base is None and not copy.is_conj() and not copy.is_neg()
        assert x.numel() == 0 or copy.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_the_copy_of_a_tensor_that_has_no_memory_of_its_own_is_made_by_its_class() -> None:
    """The process ends where such memory is read, so it is not."""
    x = LoggingTensor(torch.randn(4))
    copy = adapter.copy_of(x)
    assert type(copy) is LoggingTensor and copy.elem is not x.elem and torch.equal(copy.elem, x.elem)
    assert not adapter.keeps_its_numbers_elsewhere(torch.nn.Parameter(torch.zeros(1)))


def test_memory_as_large_as_anothers_is_so_each_time() -> None:
    x, y = adapter.fake_like(torch.ones(3, 2)), adapter.fake_like(torch.ones(2))
    sizes = [torch.ops.aten._new_zeros_with_same_feature_meta(y, x[0]).untyped_storage().nbytes() for _ in range(3)]
    assert sizes == [24, 24, 24], WHY + "FakeTensorMode._cached_dispatch_impl"


def test_the_fake_mode_nests() -> None:
    """A gradient inside a captured function enters the mode again."""
    with adapter.FAKE, adapter.FAKE:
        inner = torch.ones(2) + 1
    assert adapter.is_fake(inner), WHY + "FakeTensorMode can be entered inside itself"


def test_the_fake_mode_is_entered_by_thread() -> None:
    """What one thread does under the mode is nothing to another one, which can use the first one's tensors."""
    with adapter.FAKE:
        theirs = torch.ones(2)
        adapter.FAKE.in_kernel_invocation = True  # as if a kernel were running in this thread

        def elsewhere() -> tuple[Any, ...]:
            plain = torch.ones(2)
            with adapter.FAKE:
                return plain, theirs.device, theirs + 1, len(adapter.FAKE.enter_stack)

        with ThreadPoolExecutor(1) as pool:
            plain, device, total, depth = pool.submit(elsewhere).result()
        adapter.FAKE.in_kernel_invocation = False
        assert len(adapter.FAKE.enter_stack) == 1
    assert not adapter.is_fake(plain), WHY + "modes are on for one thread"
    assert device.type == "cpu" and adapter.is_fake(total) and depth == 1, WHY + "attributes of FakeTensorMode"
    state = {k for k, v in vars(adapter.FAKE).items() if not isinstance(v, (bool, int, str, type(None)))}
    known = {"own", "_stack_trace", "_mode_key", "old_dispatch_mode_flags", "old_non_infra_dispatch_mode_flags"}
    assert state <= known | {"old_without_ignore_compile_internals_dispatch_mode_flags"}, (
        WHY + f"FakeTensorMode has {state - known}, which threads may have to have of their own"
    )


def test_the_fake_mode_is_made_ready_by_its_first_use_in_whichever_thread() -> None:
    """Importing makes none of its attributes; all threads that come first at once see all of them."""
    mode = _FakeMode.__new__(_FakeMode)
    assert not vars(mode)
    with ThreadPoolExecutor(8) as pool:
        stacks = list(pool.map(lambda _: mode.enter_stack, range(8)))
    assert stacks == [[]] * 8
    assert vars(mode).keys() == vars(_FakeMode()).keys(), WHY + "attributes of FakeTensorMode"
    with mode:
        assert torch.ones(2).fake_mode is mode, WHY + "FakeTensorMode.__enter__"  # pyright: ignore
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mode.nonsense


def test_the_fake_mode_is_made_ready_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it loads may warn and make tensors: no matter to modes and filters of who captures first."""

    def init(self: Any) -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        vars(self).update(own=torch.ones(1).device)

    monkeypatch.setattr(_FakeMode, "__init__", init)
    mode = _FakeMode.__new__(_FakeMode)
    with warnings.catch_warnings(), Recorder() as recorder, torch.device("meta"):
        warnings.simplefilter("error")
        mode.prepare()
    assert recorder.seen == [] and mode.own == torch.device("cpu")


def test_modes_of_two_threads_leave_no_trace() -> None:
    """PyTorch would go on believing that a mode is on, and torch.compile with it, which then compiles nothing."""
    first, second = Recorder(), Recorder()
    first.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        pool.submit(second.__exit__, None, None, None).result()
    for name in ("_is_in_torch_dispatch_mode", "_is_in_non_infra_torch_dispatch_mode"):
        assert not getattr(python_dispatch, name, False), WHY + f"torch.utils._python_dispatch.{name}"


def test_seeds_go_through_the_generator_of_torch_random() -> None:
    class Watch:
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.below: Any = None

        def __getattr__(self, name: str) -> Any:
            self.asked.append(name)
            return getattr(self.below, name)

    before, watch = torch.random.default_generator, Watch()
    assert isinstance(before, torch.Generator), WHY + "torch.random.default_generator"
    with adapter.in_front(watch), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.seed()
    assert torch.random.default_generator is before
    assert {"get_state", "manual_seed", "seed", "set_state"} <= set(watch.asked), WHY + "torch.random's functions"


def test_wrapped_tensors_are_told_from_others() -> None:
    seen = []
    torch.vmap(lambda x: seen.append(adapter.is_wrapped(x)) or x)(torch.ones(2))
    assert seen == [True] and not adapter.is_wrapped(torch.ones(2)), WHY + "is_functorch_wrapped_tensor"


def test_memory_of_other_libraries_is_told_from_pytorchs() -> None:
    """Also while a function mode is on, which does not get to see the question."""

    class Never(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            raise AssertionError(f"{WHY}DisableTorchFunction: {func} was seen")

    lent, own = torch.from_numpy(np.zeros(3)), torch.tensor([1.0])
    with Never():
        assert adapter.is_lent(lent) and not adapter.is_lent(own), WHY + "UntypedStorage.resizable"


def test_a_function_mode_sees_what_is_called_on_tensors() -> None:
    """Functions, methods, attributes and operators, but not the objects a module holds."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, w = torch.ones(2), torch.ones((), requires_grad=True)
    with Watch():
        torch.sin(x), x.sin(), x + x, x[0], x.shape, torch.ops.aten.sin.default(x), float(x[0])
        x.data = x
        torch.autograd.grad(w * 2, w)
    for func in (torch.sin, torch.Tensor.sin, torch.Tensor.shape.__get__, torch.ops.aten.sin.default):
        assert func in seen, WHY + f"a TorchFunctionMode sees {func}"
    assert torch.Tensor.data.__set__ in seen and torch.autograd.grad in seen, WHY + "what a TorchFunctionMode sees"


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.scale = 3
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.scale * x**2 * grad


def test_every_application_of_a_function_goes_by_the_one_place(monkeypatch) -> None:
    """``SingleLevelFunction``: an ``apply`` of ours there is called for every class, also by an ``apply`` taken before,
    and PyTorch's own goes on from there with another class, of which it asks the methods and the class of its node."""
    early, seen = Cube.apply, []

    def apply(cls, *args):
        def forward(ctx, *inputs):
            out = cls.forward(ctx, *inputs)
            seen.append((cls, vars(ctx), ctx.to_save, ctx.non_differentiable, ctx.dirty_tensors))
            return out

        class Node(cls._backward_cls):
            materialize_grads = property(None, lambda ctx, value: seen.append(value))

        ours = type(cls)(cls.__name__, (cls,), {"forward": staticmethod(forward)})
        ours._backward_cls = Node
        return super(adapter.SingleLevelFunction, ours).apply(*args)

    monkeypatch.setattr(adapter.SingleLevelFunction, "apply", classmethod(apply), raising=False)
    x = torch.ones(2, requires_grad=True)
    y = early(x)
    assert seen[0] is False, WHY + "ctx.set_materialize_grads sets an attribute of the node"
    assert seen[1][:2] == (Cube, {"scale": 3}) and seen[1][2][0] is x, WHY + "ctx shows what forward put on it"
    assert not seen[1][3] and not seen[1][4], WHY + "ctx shows which tensors were marked"
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [3, 3], WHY + "the class's own backward is found"


def test_hooks_on_autograds_nodes_are_registered_in_python(monkeypatch) -> None:
    """``Function._register_hook``: C++ calls it for hooks and pre-hooks on all kinds of nodes."""
    seen = []
    ours = staticmethod(lambda table, hook: seen.append(hook) or adapter.register_hook(table, hook))
    monkeypatch.setattr(torch.autograd.Function, adapter.register_hook.__name__, ours)
    x, hooks = torch.ones(2, requires_grad=True), [lambda *_: None for _ in range(4)]
    for output in (x * 2, Cube.apply(x)):
        output.grad_fn.register_hook(hooks[len(seen)])
        output.grad_fn.register_prehook(hooks[len(seen)])
    assert seen == hooks, WHY + "Function._register_hook registers every hook on a node"


def test_a_backward_is_run_by_the_one_function(monkeypatch) -> None:
    seen = []

    def ours(outputs, gradients, retain_graph, *args, **options):
        seen.append(retain_graph)
        return adapter.run_backward(outputs, gradients, True, *args, **options)

    monkeypatch.setattr(torch.autograd, adapter.run_backward.__name__, ours)
    x = torch.ones(2, requires_grad=True)
    y = x.sin().sum()
    torch.autograd.grad(y, x)
    torch.autograd.backward(y)
    y.backward(retain_graph=True)
    assert seen == [False, False, True], WHY + "torch.autograd._engine_run_backward, third: retain_graph"


def test_the_modes_of_this_thread_are_known() -> None:
    mode = adapter.TorchDispatchMode()
    with mode:
        assert adapter.dispatch_modes()[-1] is mode, WHY + "_get_current_dispatch_mode_stack, innermost last"
        with adapter.without_modes():
            assert mode not in adapter.dispatch_modes(), WHY + "_disable_current_modes"


def test_transforms_of_torch_func_are_seen() -> None:
    seen = []
    torch.vmap(lambda x: seen.append(adapter.inside_torch_func()) or x)(torch.ones(2))
    assert seen == [True] and not adapter.inside_torch_func(), WHY + "peek_interpreter_stack"

    def outside(x):
        with adapter.outside_torch_func():
            seen.append(torch.ones(2).requires_grad_().requires_grad and not adapter.inside_torch_func())
        return x

    torch.vmap(outside)(torch.ones(2))
    assert seen == [True, True], WHY + "temporarily_clear_interpreter_stack"


class Recorder(adapter.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((str(func), torch.is_grad_enabled()))
        return func(*args, **(kwargs or {}))


def test_the_mode_entered_last_sees_first() -> None:
    """We enter the fake mode, then the tracer. It sits below autograd: linear arrives as what it is made of."""
    with adapter.FAKE, Recorder() as recorder:
        out = torch.nn.functional.linear(torch.zeros(3, 4, requires_grad=True), torch.zeros(5, 4))
    names = [name for name, _ in recorder.seen if name.startswith("aten") and "zeros" not in name]
    assert adapter.is_fake(out) and names == ["aten.t.default", "aten.mm.default"], (
        WHY + f"a mode entered inside FakeTensorMode sees each operator before it, once, taken apart: {names}"
    )


def test_a_tensor_above_autograd_reaches_the_mode_unwrapped() -> None:
    """The tracer tells tensors apart by id: an operand must arrive as the very object its producer returned."""
    operand = {}

    class Watch(adapter.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operand[str(func)] = args[0] if args else None
            return func(*args, **(kwargs or {}))

    with adapter.FAKE, Watch():
        x = torch.zeros(2, requires_grad=True)
        y = x.sin()
        y.cos()
    same = operand["aten.sin.default"] is x and operand["aten.cos.default"] is y
    assert same, WHY + "dispatch modes receive the program's own tensor objects"


def test_grad_mode_is_visible_below_autograd() -> None:
    """How no_grad is recognized: inside the mode grad mode still says what the program said."""
    with adapter.FAKE, Recorder() as recorder:
        x = torch.zeros(2, requires_grad=True)
        x.sin()
        with torch.no_grad():
            x.cos()
    grad = dict(recorder.seen)
    assert grad["aten.sin.default"] and not grad["aten.cos.default"], WHY + "dispatch modes see the caller's grad mode"


def test_grad_mode_is_off_inside_a_function() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.mul(2)

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with adapter.FAKE, Recorder() as recorder:
        Double.apply(torch.zeros(2, requires_grad=True))
    grad = dict(recorder.seen)
    assert grad["aten.mul.Tensor"] is False, WHY + "the forward of an autograd.Function runs with grad mode off"


def test_a_custom_operator_runs_in_a_function_of_its_name(monkeypatch) -> None:
    """``torch.library.custom_op`` wraps its operator in a generated autograd.Function, which hides nothing."""
    seen = []

    @torch.library.custom_op("memograd_test_adapter::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @torch.library.custom_op("memograd_test_adapter::twice_each", mutates_args=())
    def twice_each(xs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x * 2 for x in xs]

    twice.register_fake(torch.empty_like)
    twice_each.register_fake(lambda xs: [torch.empty_like(x) for x in xs])
    apply = classmethod(lambda cls, *args: seen.append(cls) or super(adapter.SingleLevelFunction, cls).apply(*args))
    monkeypatch.setattr(adapter.SingleLevelFunction, "apply", apply, raising=False)
    for registered in (False, True):
        seen.clear()
        for operator in (twice, twice_each) if registered else ():
            operator.register_autograd(lambda ctx, grad: grad)
        with adapter.FAKE:
            twice(torch.zeros(2, requires_grad=True))
            twice_each([torch.zeros(2, requires_grad=True)])
        node = torch.fx.Graph().create_node("call_function", torch.ops.memograd_test_adapter.twice.default)
        assert seen[0].__qualname__ == adapter.generated_function(node), WHY + "the Function around a custom operator"
        backwards = [adapter.registered_backward(cls) for cls in seen]
        assert backwards == [registered] * 2, WHY + "that Function knows whether register_autograd was called"


def test_the_shapes_of_the_ctc_loss_are_known() -> None:
    """``register_op_impl``: fake tensors give up on this operator without our entry."""
    with adapter.FAKE:
        x, targets = torch.empty(8, 3, 5), torch.empty(3, 4, dtype=torch.long)
        lengths = torch.empty(3, dtype=torch.long)
        loss, table = torch.ops.aten._ctc_loss(x, targets, lengths, lengths)
    assert loss.shape == (3,) and table.shape == (3, 8, 9), WHY + "register_op_impl enters shapes of an operator"


@pytest.mark.parametrize("driver", ["gels", "gelsy", "gelsd", "gelss"])
@pytest.mark.parametrize("shapes", [((5, 3), (5, 2)), ((3, 5), (3, 2)), ((2, 5, 3), (2, 5)), ((1, 5, 3), (2, 5, 2))])
def test_the_shapes_of_a_least_squares_solution_are_known(shapes: tuple[tuple[int, ...], ...], driver: str) -> None:
    real = [torch.randn(shape) for shape in shapes]
    expected = torch.linalg.lstsq(*real, driver=driver)
    fakes = [adapter.fake_like(x) for x in real]
    if driver in ("gelsd", "gelss") and len(expected.residuals):  # of a matrix of full rank only, which nobody knows
        with adapter.FAKE, pytest.raises(adapter.DATA_DEPENDENT):
            torch.linalg.lstsq(*fakes, driver=driver)
        return
    with adapter.FAKE:
        found = torch.linalg.lstsq(*fakes, driver=driver)
    for there, here in zip(expected, found, strict=True):
        same = (there.shape, there.stride(), there.dtype) == (here.shape, here.stride(), here.dtype)
        assert same, WHY + "linalg_lstsq returns results of the shapes and strides we state"


def test_pytree_keeps_names_and_registrations() -> None:
    tree = ((torch.ones(1), {"labels": 2}), {})
    leaves, spec = adapter.pytree.tree_flatten(tree)
    assert adapter.pytree.tree_unflatten(leaves, spec) == tree
    paths = [path for path, _ in adapter.pytree.tree_flatten_with_path(tree)[0]]
    keys = [[getattr(k, "key", getattr(k, "idx", None)) for k in path] for path in paths]
    assert keys == [[0, 0], [0, 1, "labels"]], WHY + "pytree paths are sequence indices and dictionary keys"


def test_transformers_outputs_are_registered() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    out = outputs.CausalLMOutput(loss=torch.ones(()), logits=torch.ones(2))
    assert len(adapter.pytree.tree_leaves(out)) == 2, WHY + "transformers registers its outputs with torch's pytree"


def test_composite_operators_are_known() -> None:
    composite = [adapter.is_composite(op) for op in (torch.ops.aten.linear.default, torch.ops.aten.sin.default)]
    assert composite == [True, False], WHY + "the dispatcher tells which operators have an implicit derivative"


def test_composite_operators_can_be_taken_apart() -> None:
    """By ``_op_dk``: as PyTorch's kernel does it, not as its Python decompositions do (a copy here)."""
    x = torch.ones(3)
    assert adapter.taken_apart(torch.ops.aten.dropout.default, (x, 0.5, False), {}) is x, WHY + "``_op_dk``"


def test_a_thread_is_told_of_its_own_allocations() -> None:
    """By the profiler of ``torch.autograd.profiler_legacy`` (``profile.config``, ``_enable_profiler_legacy``,
    ``_disable_profiler_legacy``), in ranges marked by ``record_function``; other threads' are left out."""

    def twice(n: int) -> torch.Tensor:
        return torch.zeros(n, dtype=torch.uint8) + torch.zeros(n, dtype=torch.uint8)

    noise = threading.Thread(target=lambda: [twice(10**6) for _ in range(100)])
    noise.start()
    results, peaks = adapter.allocation_peaks([lambda n=n: lambda: twice(n).numel() for n in (1000, 50)])
    noise.join()
    assert (results, peaks) == ([1000, 50], [3000, 150]), WHY + "what a profiler of one thread is told of allocations"


def test_every_private_name_is_tested() -> None:
    """Whatever the adapter imports from PyTorch's private modules is mentioned here."""
    private = [
        alias.asname or alias.name
        for file in Path(inspect.getfile(adapter)).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.")
        for alias in node.names
    ]
    text = inspect.getsource(sys.modules[__name__])
    untested = [name for name in private if name not in text]
    assert private and not untested, f"memograd/_torch imports {untested}, which no test here mentions"


@pytest.mark.parametrize(
    "name",
    [
        "UNSUPPORTED",
        "FakeTensor",
        "FakeTensorMode",
        "UnsupportedOperatorException",
        "DataDependentOutputException",
        "DynamicOutputShapeException",
    ],
)
def test_names_exist(name: str) -> None:
    assert hasattr(adapter, name), WHY + f"{name} is gone"


def test_inductor_compiles_a_small_graph_for_operands_without_data() -> None:
    """Kernels are compiled from what the graph says of their operands, and must return results with the strides that
    the graph says, in memory of their own."""

    def function(x0, x1):
        add = torch.add(x0, x1)
        return add, torch.ops.aten.sigmoid.default(add)

    x, y = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.randn(1, 3, 1, 1)
    compiled = adapter.inductor_function(function, [adapter.fake_like(x), adapter.fake_like(y)])
    with torch.no_grad():
        results = compiled(x, y)
    assert len(results) == 2, WHY + "torch._inductor.compile returns a function of the operands"
    for ours, theirs in zip(results, function(x, y), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride(), WHY + "Inductor keeps the strides of results"


def test_what_inductor_compiled_is_called_itself_where_nothing_is_around_it() -> None:
    def of_its_own(x, y):
        return (torch.add(x, y),)

    def an_operand(x, y):
        return torch.add(x, y), x

    def a_view_of_one(x, y):
        return torch.add(x, y), torch.ops.aten.view.default(x, [-1])

    for function, nothing in ((of_its_own, True), (an_operand, False), (a_view_of_one, False)):
        compiled = adapter.inductor_graph(torch.fx.symbolic_trace(function), [torch.ones(2, 3), torch.ones(2, 3)])
        for _ in range(3):
            x, y = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
            with torch.no_grad():
                results = compiled(x, y)
            for ours, theirs in zip(results, function(x, y), strict=True):
                torch.testing.assert_close(ours, theirs.detach())
                shared = theirs.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
                assert (ours.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == shared
            assert not any(r.requires_grad for r in compiled(x, y))
        if nothing:
            assert compiled._short is not None, WHY + "compile_fx calls inner_compile, whose result current_callable"


def test_inductor_takes_a_pass_of_ours_and_knows_it_by_its_file() -> None:
    """Through CustomGraphPass, with get_hash_for_files."""
    seen: list[list[Any]] = []

    def look(graph: torch.fx.Graph) -> None:
        seen.append([n.target for n in graph.nodes])

    options = adapter.last_passes(look)
    module = torch.fx.symbolic_trace(lambda x: (torch.ops.aten.sin.default(x),))
    uncached = {"force_disable_caches": True}  # else what an earlier run compiled serves
    (y,) = adapter.inductor_graph(module, [torch.ones(3)], options | uncached)(torch.ones(3))
    torch.testing.assert_close(y, torch.ones(3).sin())
    assert len(seen) == 1 and torch.ops.aten.sin.default in seen[0], WHY + "post_grad_custom_post_pass"
    (given,) = options.values()
    assert given.uuid() == adapter.last_passes(look)["post_grad_custom_post_pass"].uuid()
    assert given.uuid() != next(iter(adapter.last_passes(lambda graph: None).values())).uuid()


def test_inductor_rounds_where_it_is_said_to() -> None:
    def function(x):
        low = torch.ops.aten._to_copy.default(x, dtype=torch.bfloat16)
        return (torch.sub(x, torch.ops.aten._to_copy.default(low, dtype=torch.float32)),)

    x = torch.randn(64)
    compiled = adapter.inductor_function(function, [adapter.fake_like(x)])
    with torch.no_grad():
        (lost,) = compiled(x)
    exact = torch.equal(lost, x - x.bfloat16().float())
    assert exact == adapter.keeps_roundings("cpu"), WHY + "emulate_precision_casts keeps roundings in CPU kernels"


def test_hooks_of_users_are_seen() -> None:
    leaf, layer = torch.nn.Parameter(torch.ones(1)), torch.nn.Linear(1, 1)
    assert not adapter.has_hooks(leaf) and not any(adapter.module_hooks(layer))
    leaf.register_hook(lambda g: g).remove()
    assert not adapter.has_hooks(leaf), WHY + "a removed hook is gone"
    for register in (leaf.register_hook, leaf.register_post_accumulate_grad_hook):
        handle = register(lambda *_: None)
        assert adapter.has_hooks(leaf), WHY + f"{register.__name__} leaves its hook on the tensor"
        handle.remove()
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        tables = adapter.module_hooks(layer)
        for owner, prefix in ((layer, "register_"), (torch.nn.modules.module, "register_module_")):
            handle = getattr(owner, prefix + kind)(lambda *_: None)
            assert sum(map(len, tables)) == 1, WHY + f"{kind}s lie in tables that stay the same objects"
            of = adapter.hooks_by_kind(layer if owner is layer else None)
            assert [name for name, _ in of] == [f"{kind}s".removeprefix("full_")], WHY + "each kind has its table"
            handle.remove()
            assert not any(tables)


def test_elementwise_strides_are_those_of_a_kernel():
    """``compute_elementwise_output_strides`` of three operands that disagree: expanded, transposed, a row."""
    x, w, g = torch.randn(1, 5).expand(4, 5), torch.randn(5), torch.randn(5, 4).t()
    real = torch.ops.aten._prelu_kernel_backward(g, x, w.expand(4, 5))[0]
    assert adapter.elementwise_strides([x, w, g]) == real.stride() == (1, 4)
    assert adapter.elementwise_strides([x, 2.0]) == (x * 2.0).stride()


def test_suggested_format_allows_gaps():
    """``suggest_memory_format`` answers as the kernels do."""
    x = torch.randn(2, 5, 6, 8)[..., ::2].permute(0, 3, 1, 2)  # channels last, every other one
    assert not x.is_contiguous(memory_format=torch.channels_last)
    assert adapter.suggested_format(x) == torch.channels_last
    y = torch.nn.functional.batch_norm(x, None, None, training=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert adapter.suggested_format(torch.randn(2, 3)) == torch.contiguous_format


def test_a_tensor_inside_a_transform_of_torch_func_is_told_from_an_ordinary_one() -> None:
    x, seen = torch.randn(3, 2, requires_grad=True), []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append((adapter.is_wrapped(x), adapter.level_of(x), adapter.levels(), adapter.is_tracked(x)))
        with adapter.outside_torch_func():
            seen.append((adapter.inside_torch_func(), adapter.levels(), x.shape, x.stride()))
        seen.append(adapter.wrapped_value(x))
        return x.sum()

    assert not adapter.inside_torch_func() and not adapter.is_wrapped(x) and adapter.is_tracked(x)
    torch.func.vmap(look)(x)
    assert seen == [(True, 1, 1, True), (False, 0, (2,), (1,)), None]
    seen.clear()
    torch.func.grad(look)(x.detach())
    assert seen[0] == (True, 1, 1, True)
    assert seen[1][:2] == (False, 0)
    assert not adapter.is_wrapped(seen[2])
    torch.testing.assert_close(seen[2], x.detach())


def test_forward_mode_is_seen() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(adapter.in_forward_mode())
        return x

    torch.func.jvp(look, (torch.ones(()),), (torch.ones(()),))
    with torch.autograd.forward_ad.dual_level():
        look(torch.ones(()))
    assert seen == [True, True] and not adapter.in_forward_mode()


def test_operators_with_and_without_a_batching_rule_are_told_apart() -> None:
    assert adapter.has_batching_rule(torch.ops.aten.mul.Tensor)
    assert adapter.has_batching_rule(torch.ops.aten.reshape.default)
    assert not adapter.has_batching_rule(torch.ops.aten._fused_rms_norm_backward.default)


def test_hooks_can_be_kept_from_a_gradient() -> None:
    leaf = torch.nn.Parameter(torch.ones(1))
    seen = []
    leaf.register_hook(seen.append)
    leaf.register_post_accumulate_grad_hook(seen.append)
    with adapter.without_hooks([leaf, torch.ones(1)]):
        torch.autograd.grad((leaf * 2).sum(), leaf)
        (leaf * 2).sum().backward()
    assert not seen, WHY + "autograd calls the hooks that the table holds at that moment"
    (leaf * 2).sum().backward()
    assert len(seen) == 2


def test_what_is_saved_is_kept_from_hooks() -> None:
    seen: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor

    leaf = torch.ones(2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with adapter.without_saved_tensor_hooks():
            leaf.exp().sum().backward()
        assert not seen, WHY + "the hooks that saved tensors pass through are the innermost ones"
        leaf.exp().sum().backward()
    assert len(seen) == 1
    assert torch.equal(leaf.grad, 2 * torch.ones(2).exp())


def test_tensors_without_data_are_told_from_others() -> None:
    with FakeTensorMode():
        assert not adapter.has_data(torch.ones(2)), WHY + "every fake tensor is a FakeTensor"
    assert not adapter.has_data(torch.ones(2, device="meta"))
    assert adapter.has_data(torch.ones(2)) and adapter.has_data(torch.nn.Parameter(torch.ones(2)))


def test_shapes_are_forgotten() -> None:
    with adapter.FAKE:
        torch.ones(3) + 1
    entries = len(adapter.FakeTensorMode.cache)
    assert entries, WHY + "what operators make of tensors without data is remembered in FakeTensorMode.cache"
    adapter.forget_shapes(entries)
    assert len(adapter.FakeTensorMode.cache) == entries
    adapter.forget_shapes(0)
    assert not adapter.FakeTensorMode.cache


def test_the_engine_says_which_gradients_are_asked_for():
    asked: list[tuple[int, ...]] = []

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, factor: float, b: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx.save_for_backward(a, b)
            return a * b * factor

        @staticmethod
        def backward(ctx: Any, *adjoints: torch.Tensor) -> Any:
            a, b = ctx.saved_tensors
            asked.append(adapter.needed_inputs(ctx))
            adapter.free_saved(ctx)
            return adjoints[0] * b, None, adjoints[0] * a

    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    Product.apply(a, 1.0, b).sum().backward()  # pyright: ignore[reportAttributeAccessIssue]
    y: Any = Product.apply(a.exp(), 1.0, b)
    torch.autograd.grad(y.sum(), a, retain_graph=True)
    torch.autograd.grad(y.sum(), b)
    assert asked == [(0, 1), (0,), (1,)], WHY + "torch._C._will_engine_execute_node sees what autograd.grad asks for"
    with pytest.raises(RuntimeError, match="second time"):  # freed, and so says PyTorch
        torch.autograd.grad(y.sum(), b)


def test_a_backward_pass_says_which_it_is_and_what_it_was_asked_for() -> None:
    seen: list[Any] = []
    passes: list[int] = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
            return 2 * a

        @staticmethod
        def backward(ctx: Any, *adjoints: Any) -> Any:
            seen.append(adapter.asked_for([inner], inner.grad_fn))
            passes.append(adapter.current_pass())
            adapter.at_the_end(lambda: seen.append("over"))
            return 2 * adjoints[0]

    a = torch.ones(2, requires_grad=True)
    inner = a.exp()
    y: Any = Double.apply(inner)
    y.sum().backward(retain_graph=True)
    torch.autograd.grad(y.sum(), a, retain_graph=True)
    torch.autograd.grad(y.sum(), [a, inner], retain_graph=True)
    y.sum().backward(inputs=inner, retain_graph=True)
    asked = [[False], "over", [False], "over", [True], "over", [True], "over"]
    assert seen == asked, WHY + "frames of torch.autograd.grad and backward, the engine's queue_callback"
    assert len({*passes}) == 4 and adapter.current_pass() == -1, WHY + "torch._C._current_graph_task_id"


def test_generators_are_known_and_stand_where_they_are_put() -> None:
    generator = torch.Generator().manual_seed(1)
    state = adapter.state_of(generator)
    drawn = torch.rand(2, generator=generator)
    with adapter.FAKE:
        adapter.put_state(generator, state)
        assert adapter.state_of(generator) == state, WHY + "DisableTorchFunction, _disable_current_modes"
    assert torch.equal(torch.rand(2, generator=generator), drawn)
    assert adapter.is_default_generator(torch.default_generator), WHY + "Generator._cdata"
    assert not adapter.is_default_generator(generator)


def test_the_default_device_is_known() -> None:
    assert adapter.default_device() is None, WHY + "_len_torch_function_stack"
    with torch.device("meta"):
        assert adapter.default_device() == torch.device("meta"), WHY + "_len_torch_function_stack"


def test_batched_cotangents_are_known():
    seen: list[bool] = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: seen.append(adapter.is_batched(g)))
    torch.autograd.grad(y, x, torch.ones(3, 2), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(2))
    assert seen == [True, False], WHY + "is_grads_batched uses the tensors of the old vmap"


def test_batched_cotangents_are_taken_apart_and_put_together() -> None:
    seen: list[Any] = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2

    def tripled(g: torch.Tensor) -> torch.Tensor:
        rows = adapter.unbatched(g)
        assert rows is not None, WHY + "_remove_batch_dim of the old vmap"
        seen.append(rows.shape)
        return adapter.batched(rows * 3)

    y.register_hook(tripled)
    (g,) = torch.autograd.grad(y, x, torch.eye(3, 2), is_grads_batched=True)
    assert seen == [(3, 2)] and torch.equal(g, 6 * torch.eye(3, 2)), WHY + "_add_batch_dim of the old vmap"


def test_a_schema_says_what_an_operator_takes_returns_and_writes() -> None:
    schema = adapter.schema_of(torch.ops.aten.add_.Tensor)
    assert [(a.name, a.kwarg_only) for a in schema.arguments] == [("self", False), ("other", False), ("alpha", True)]
    assert schema.name == "aten::add_" and schema.is_mutable, WHY + "an overload's _schema says whether it writes"
    assert schema.arguments[0].alias_info.is_write and schema.arguments[2].default_value == 1
    assert adapter.schema_of(torch.ops.aten.t.default).returns[0].alias_info is not None, (
        WHY + "views say what they are"
    )
    assert adapter.schema_of(getattr) is None


def test_operators_that_are_given_functions_reach_a_mode_that_says_it_takes_them():
    class Mode(adapter.TorchDispatchMode):
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(adapter.is_given_functions(func))
            return func(*args, **(kwargs or {}))

    seen = []
    with Mode():
        torch.cond(torch.tensor(True), torch.sin, torch.cos, (torch.ones(2),))
    assert True in seen, WHY + "a dispatch mode with supports_higher_order_operators is handed torch.cond"


def test_hooks_of_an_optimizer_are_seen() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        assert not adapter.has_step_hooks(optimizer)
        handle = register(lambda *_: None)
        assert adapter.has_step_hooks(optimizer), WHY + f"{register.__name__} leaves its hook on the optimizer"
        handle.remove()


def test_schedulers_are_told_of_steps(recwarn: pytest.WarningsRecorder) -> None:
    for noted in (True, False):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        if noted:
            adapter.note_step(optimizer)
        scheduler.step()
        said = "before `optimizer.step()`" in " ".join(str(w.message) for w in recwarn)
        assert said != noted, WHY + "a scheduler warns of an optimizer without _opt_called"


def test_hooks_of_a_tensor_lie_in_one_table() -> None:
    leaf = torch.ones(1, requires_grad=True)
    assert adapter.hooks_of(leaf) is None
    handle = leaf.register_hook(lambda g: g)
    table = adapter.hooks_of(leaf)
    leaf.register_hook(lambda g: -g)
    assert len(table) == 2 and adapter.hooks_of(leaf) is table, WHY + "all hooks of a tensor lie in _backward_hooks"
    handle.remove()
    assert len(table) == 1


def test_a_function_may_put_other_nodes_into_the_graph() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *adjoints: Any) -> Any:
            return adjoints[0] * 2

    other = type("Other", (adapter.backward_class(Double),), {})
    assert adapter.backward_class(Double, other) is not other and adapter.backward_class(Double) is other
    y = Double.apply(torch.ones(1, requires_grad=True))
    assert isinstance(y.grad_fn, other), WHY + "the node of a Function is one of its _backward_cls"  # pyright: ignore


def test_a_module_keeps_what_it_holds_in_four_tables() -> None:
    module = torch.nn.Module()
    module.a, module.b, module.d = 1, torch.nn.Parameter(torch.ones(1)), torch.nn.Linear(1, 1)
    module.register_buffer("c", torch.ones(1))
    held = [next(k for k, table in enumerate(adapter.tables_of(module)) if name in table) for name in "abcd"]
    assert held == [0, 1, 2, 3], WHY + "a module keeps parameters, buffers and submodules in dicts of its __dict__"


def test_parametrized_tensors_are_kept_in_a_dict_by_module_and_name() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    assert adapter.parametrized_values() is None, WHY + "parametrize._cache_enabled counts the blocks"
    with torch.nn.utils.parametrize.cached():
        weight = layer.weight
        values = adapter.parametrized_values()
    assert values == {(id(layer), "weight"): weight}, WHY + "parametrize._cache holds them by (id, name)"


def test_torchscript_lists_its_attributes_and_forgets_its_plans() -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = torch.nn.Linear(1, 1), 2.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).tanh() * self.scale

    compiled = torch.jit.script(Module())
    held = {name: value for (_, name), value in adapter.scripted_state(compiled).items()}
    assert held["scale"] == 2.0 and held["weight"] is compiled.inner.weight, WHY + "_concrete_type.get_attributes"
    for holder, name in adapter.scripted_state(compiled):
        if name == "scale":
            holder.setattr(name, 3.0)
    assert compiled.scale == 3.0, WHY + "an attribute of a ScriptModule is set by setattr of its _c"
    for _ in range(4):
        out = compiled(torch.ones(2, 1))
    assert isinstance(compiled.forward, adapter.ScriptMethod)
    adapter.forget_plans(compiled.forward)
    with adapter.optimized_execution(False):
        out = compiled(torch.ones(2, 1))
    assert "Mul" in str(out.grad_fn), WHY + "_debug_flush_compilation_cache lets autograd see operators"


def test_who_else_traces_is_seen() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    seen: list[bool] = []

    def traced(x: torch.Tensor) -> torch.Tensor:
        seen.append(adapter.inside_make_fx())
        return x.sin()

    make_fx(traced)(torch.ones(2))
    assert seen == [True] and not adapter.inside_make_fx(), WHY + "a mode of that name is in force while it traces"


def test_nothing_is_cut_for_the_buckets_of_ddp() -> None:
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        before = torch._dynamo.config.optimize_ddp  # pyright: ignore[reportAttributeAccessIssue]
        with adapter.one_graph():
            assert before and not torch._dynamo.config.optimize_ddp, WHY + "optimize_ddp makes Dynamo cut graphs"  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        distributed.destroy_process_group()


def test_a_function_is_applied_without_asking_for_transforms() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return g * 2

    x = torch.ones(2, requires_grad=True)
    adapter.apply_alone(Twice)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 2.0], WHY + "the apply below torch.autograd.Function's"


def test_who_compiles_is_seen() -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.append(adapter.dynamo_listens())

    left_alone = torch.compiler.disable(look)

    def f(x: torch.Tensor) -> Any:
        if adapter.dynamo_listens():
            left_alone()
            return x + 1
        return x

    assert not adapter.dynamo_listens(), WHY + "Dynamo's callback (_eval_frame)"
    assert torch.compile(f, backend="eager")(torch.ones(1)).item() == 2, WHY + "what is traced sees that it is"
    assert seen == [False], WHY + "what Dynamo was told to leave alone is not listened to"


def test_a_tensor_without_data_is_made_of_its_geometry() -> None:
    with adapter.FAKE:
        there = torch.empty(4, 6, dtype=torch.float64)[:, 1:3].t()
        geometry = adapter.geometry_of(there)
    where = (torch.device("cpu"), 1, 4 * 6 * 8)
    assert geometry == ((2, 4), (1, 6), torch.float64, *where), WHY + "attributes of FakeTensor"
    made = adapter.fake_of(geometry)
    assert adapter.is_fake(made) and (made.shape, made.stride(), made.dtype) == geometry[:3], WHY + "FakeTensor.__new__"
    assert made.device.type == "cpu" and made.storage_offset() == 0
    with adapter.FAKE:
        assert adapter.is_fake(made + 1) and (made + there).shape == (2, 4), WHY + "FakeTensor works in its mode"
        assert adapter.geometry_of(torch.tensor(2)) is None, WHY + "FakeTensor.constant"
        assert adapter.geometry_of(torch.empty(2, dtype=torch.complex64).conj()) is None
    assert adapter.geometry_of(torch.ones(2)) is None


def test_tensors_that_look_at_one_memory_are_known() -> None:
    real = torch.ones(4)
    with adapter.FAKE:
        fake = torch.ones(4)
        assert adapter.share_memory(fake, fake[1:]) and not adapter.share_memory(fake, fake.clone())
    assert adapter.share_memory(real, real[1:]) and not adapter.share_memory(real, real.clone())


def test_inductor_says_by_a_class_that_its_compiler_failed():
    from torch._inductor import exc

    assert adapter.compiler_failed(exc.InvalidCxxCompiler())
    assert adapter.compiler_failed(exc.CppCompileError(["c++"], "No space left on device"))
    assert not adapter.compiler_failed(RuntimeError("no lowering"))


def test_a_view_is_negated_when_it_is_read() -> None:
    x = torch.tensor([1.0, -2.0])
    view = adapter.neg_view(x)
    assert view.is_neg() and view.tolist() == [-1.0, 2.0], WHY + "torch._neg_view"
    x[0] = 5
    assert view.tolist() == [-5.0, 2.0], WHY + "it is a view"


def test_modes_of_others_are_known_and_can_be_kept_out() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    x = torch.ones(2)
    assert not adapter.any_modes() and adapter.modes_of_others() == (), WHY + "_len_torch_function_stack"
    with torch.device("cpu"):
        assert adapter.any_modes() and adapter.modes_of_others() == (), WHY + "DeviceContext"
    with FlopCounterMode(display=False):
        assert [m.__name__ for m in adapter.modes_of_others()] == ["_FlopCounterMode"], WHY + "the stack of modes"
    with Mode() as mode:
        assert adapter.modes_of_others() == (mode,), WHY + "_get_current_function_mode_stack"
        with adapter.without_function_modes():
            torch.sin(x)
            assert not seen, WHY + "DisableTorchFunction"
            with adapter.with_function_modes():
                torch.cos(x)
        torch.exp(x)
    assert seen == [torch.cos, torch.exp], WHY + "_EnableTorchFunction"


def test_hooks_on_saved_tensors_are_seen() -> None:
    assert adapter.saved_tensor_hooks() is None, WHY + "_top_saved_tensors_default_hooks"
    with torch.autograd.graph.saved_tensors_hooks(abs, float):
        assert adapter.saved_tensor_hooks() == (abs, float), WHY + "_top_saved_tensors_default_hooks"


def test_who_asks_for_the_version_of_a_tensor_is_seen() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    with Mode():
        assert torch.ones(2).add_(1)._version == 1
    assert seen[-1] == adapter.VERSION, WHY + "Tensor._version"


def test_cudnn_alone_is_turned_off() -> None:
    flags = torch.backends.cudnn
    with adapter.without_cudnn():
        assert not flags.enabled, WHY + "_set_cudnn_enabled"
    assert flags.enabled, WHY + "_get_cudnn_enabled"


def test_precisions_of_single_precision_can_be_asked_for() -> None:
    before = adapter.float32_precisions()
    with fp32_precision(torch.backends.cuda.matmul, "tf32"), fp32_precision(torch.backends.cudnn.conv, "ieee"):
        now = adapter.float32_precisions()
    assert now == before | {("cuda", "matmul"): "tf32", ("cuda", "conv"): "ieee"}, WHY + "_get_fp32_precision_getter"


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "settings",
    [
        "pass",
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'ieee'; torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    ],
)
def test_another_process_takes_over_the_precisions(settings: str) -> None:
    """In processes of their own: the older way of setting them cannot be taken back."""

    def said(code: str) -> str:
        code = f"import torch; from memograd import _torch\n{code}\nprint(_torch.float32_precisions())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    there = said(settings)
    assert said(f"_torch.put_float32_precisions({there})") == there


def test_dynamo_writes_an_assignment_of_data_as_another_operator() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        x.data = x.data * 2
        return x.sin()

    seen: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(module)
        return module.forward

    torch.compile(f, backend=backend)(torch.ones(2, requires_grad=True))
    targets = [n.target for n in adapter.with_data_set(seen[0]).graph.nodes]
    assert torch.Tensor.set_ not in targets, WHY + "what stands behind set_ in Dynamo's graph for x.data = y"
    assert not any("version" in getattr(t, "__name__", "") for t in targets), WHY + "and behind that"


def test_attributes_of_a_tensor_are_the_users_and_no_marks_of_pytorch():
    x = torch.ones(2)
    torch._dynamo.mark_dynamic(x, 0)
    assert adapter.attributes_of(x) == {}
    x.scale = 2.0
    assert adapter.attributes_of(x) == {"scale": 2.0}
    stand_in = adapter.fake_like(x)
    assert adapter.attributes_of(stand_in) == {}
    stand_in.scale = 2.0
    assert adapter.attributes_of(stand_in) == {"scale": 2.0}

"""The native backend against PyTorch: every kernel on random data, whole training steps, loops against calls."""

from __future__ import annotations

import operator
import threading

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim

import memograd as mg
from memograd import c_compiler, rules  # noqa: F401  enters the derivative table
from memograd.adjoint.derivation import differentiate
from memograd.errors import BackendError
from memograd.graph.entries import Calling, Input, Output
from memograd.graph.graph import Graph
from memograd.pipeline import capture
from memograd.run import native

aten = torch.ops.aten
pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler on this machine")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def graph_of(cases, tensors):
    """One graph that holds the result of each ``(operator, args, kwargs)``; tensors among args become inputs."""
    fxg = torch.fx.Graph()
    nodes = []
    for i, tensor in enumerate(tensors):
        node = fxg.placeholder(f"x{i}")
        node.meta["val"] = tensor
        nodes.append(node)
    results = []

    def swap(value):
        if isinstance(value, torch.Tensor):
            return nodes[next(i for i, t in enumerate(tensors) if t is value)]
        return type(value)(swap(v) for v in value) if isinstance(value, (list, tuple)) else value

    for target, args, kwargs in cases:
        node = fxg.call_function(target, swap(tuple(args)), kwargs)
        node.meta["val"] = target(*args, **kwargs)
        if isinstance(node.meta["val"], torch.Tensor):
            results.append(node)
            continue
        for i, part in enumerate(node.meta["val"]):
            item = fxg.call_function(operator.getitem, (node, i))
            item.meta["val"] = part
            results.append(item)
    fxg.output(tuple(results))
    inputs = tuple(Input("input", f"x{i}") for i in range(len(tensors)))
    outputs = tuple(Output("output", f"{i}") for i in range(len(results)))
    return Graph(fxg, inputs, outputs, Calling(None, (), (), None, (), (), ()))


def check(cases, tensors):
    graph = graph_of(cases, tensors)
    got = native.compile(graph)(*tensors)
    for node, mine in zip(graph.results, got, strict=True):
        theirs = node.meta["val"]
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype, node.format_node()
        if theirs.is_floating_point():
            tolerance = TOLERANCE[theirs.dtype]
            torch.testing.assert_close(
                mine,
                theirs,
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
                msg=lambda m, n=node: f"{n.format_node()}: {m}",
            )
        else:
            assert torch.equal(mine, theirs), node.format_node()


def op(target, *args, **kwargs):
    return target, args, kwargs


both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
UNARY = [
    "neg",
    "abs",
    "sgn",
    "sign",
    "reciprocal",
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "erf",
    "erfc",
    "floor",
    "ceil",
    "trunc",
    "round",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "leaky_relu",
    "isnan",
    "logical_not",
    "clone",
    "detach",
    "alias",
    "hardtanh",
]
POSITIVE = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt"]


def variants(dtype):
    """Contiguous, transposed, sliced, expanded, 0-dimensional; with zeros, NaN and infinities."""
    special = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0], dtype=dtype)
    return [
        torch.randn(3, 5, dtype=dtype),
        torch.randn(5, 3, dtype=dtype).t(),
        torch.randn(6, 9, dtype=dtype)[::2, 1::2],
        torch.randn(1, 5, dtype=dtype).expand(3, 5),
        torch.tensor(0.7, dtype=dtype),
        special,
    ]


@both
def test_unary(dtype):
    tensors = variants(dtype)
    cases = [op(getattr(aten, name).default, x) for name in UNARY for x in tensors]
    cases += [op(getattr(aten, name).default, x) for name in POSITIVE for x in tensors]  # NaN below zero
    cases += [op(aten.gelu.default, x, approximate=a) for x in tensors[:-1] for a in ("none", "tanh")]
    cases += [op(aten.pow.Tensor_Scalar, x, e) for x in tensors for e in (0, 1, 2, 3, 0.5, -1, -2, -0.5, 1.7, 4)]
    cases += [op(aten.clamp.default, x, lo, hi) for x in tensors for lo, hi in ((-0.3, 0.4), (None, 0.1), (0.2, None))]
    cases += [op(aten.clamp_min.default, x, 0.1) for x in tensors]
    check(cases, tensors)


@both
def test_binary_and_broadcasting(dtype):
    a, b, c = torch.randn(4, 3, dtype=dtype), torch.randn(3, dtype=dtype), torch.randn(4, 1, dtype=dtype)
    d, e = torch.randn(3, 4, dtype=dtype).t(), torch.tensor(0.6, dtype=dtype)
    special = torch.tensor([0.0, float("nan"), 1.0], dtype=dtype)
    pairs = [(a, b), (b, a), (a, c), (c, d), (a, d), (e, a), (a, e), (e, e), (a, special), (special, a)]
    names = ["add", "sub", "mul", "div", "maximum", "minimum", "atan2", "fmod", "eq", "ne", "lt", "le", "gt", "ge"]
    cases = [op(_tensor_overload(n), x, y) for n in names for x, y in pairs]
    cases += [op(aten.add.Tensor, a, b, alpha=0.3), op(aten.sub.Tensor, a, c, alpha=-2)]
    cases += [
        op(getattr(aten, n).Scalar, a, 0.37) for n in ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"]
    ]
    cases += [op(aten.rsub.Scalar, a, 1, 2), op(aten.addcmul.default, a, b, c, value=0.2)]
    cases += [op(aten.addcdiv.default, a, b, c, value=0.2), op(aten.lerp.Scalar, a, d, 0.3)]
    for name in ("sigmoid_backward", "tanh_backward", "silu_backward"):
        cases.append(op(getattr(aten, name).default, a, d))
    cases += [
        op(aten.threshold_backward.default, a, d, 0),
        op(aten.gelu_backward.default, a, d),
        op(aten.gelu_backward.default, a, d, approximate="tanh"),
        op(aten.softplus_backward.default, a, d, 1, 20),
        op(aten.leaky_relu_backward.default, a, d, 0.1, False),
    ]
    check(cases, [a, b, c, d, e, special])


def _tensor_overload(name):
    packet = getattr(aten, name)
    return packet.Tensor if "Tensor" in packet.overloads() else packet.default


@both
def test_masks_integers_and_casts(dtype):
    x, y = torch.randn(4, 3, dtype=dtype), torch.randn(3, dtype=dtype)
    mask, other = x > 0, torch.rand(4, 3) > 0.5
    n, k = torch.arange(-6, 6).reshape(4, 3), torch.randint(1, 5, (3,))
    cases = [
        op(aten.where.self, mask, x, y),
        op(aten.where.ScalarOther, mask, x, 2.0),
        op(aten.masked_fill.Scalar, x, mask, -1.5),
        op(aten.logical_and.default, mask, other),
        op(aten.logical_or.default, mask, other),
        op(aten.logical_xor.default, mask, other),
        op(aten.bitwise_and.Tensor, mask, other),
        op(aten.bitwise_or.Tensor, mask, other),
        op(aten.bitwise_xor.Tensor, n, k),
        op(aten.bitwise_not.default, mask),
        op(aten.bitwise_not.default, n),
        op(aten.add.Tensor, n, k),
        op(aten.mul.Tensor, n, x),
        op(aten.div.Tensor, n, k),
        op(aten.eq.Scalar, n, 2),
        op(aten.gt.Tensor, x, k),
        op(aten.mul.Tensor, mask, x),
        op(aten.sum.default, mask),
        op(aten.sum.default, n),
        op(aten.amax.default, n),
        op(aten.any.default, mask),
        op(aten.all.dim, mask, 1),
        op(aten.copy.default, x, y),
        op(aten.relu.default, n),
        op(aten.pow.Tensor_Scalar, n, 2),
    ]
    for target in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool):
        cases += [op(aten._to_copy.default, v, dtype=target) for v in (x, n, mask)]
    check(cases, [x, y, mask, other, n, k])


@both
def test_views_and_assembly(dtype):
    x, y, index = (
        torch.randn(4, 6, dtype=dtype),
        torch.randn(6, 4, dtype=dtype).t(),
        torch.tensor([[3, 0, 1], [2, 2, 0]]),
    )
    row = torch.tensor([2, 0])
    cases = []
    for v in (x, y):
        cases += [
            op(aten.t.default, v),
            op(aten.permute.default, v, [1, 0]),
            op(aten.unsqueeze.default, v, 1),
            op(aten.select.int, v, 1, 2),
            op(aten.slice.Tensor, v, 1, 1, 6, 2),
            op(aten._unsafe_view.default, x, [8, 3]),
            op(aten.reshape.default, v, [3, 8]),
            op(aten.expand.default, v, [2, 4, 6]),
            op(aten.diagonal.default, v),
            op(aten.split.Tensor, v, 4, 1),
            op(aten.unbind.int, v),
            op(aten.cat.default, [x, v], 1),
            op(aten.stack.default, [x, v], 1),
            op(aten.slice_backward.default, v, [4, 9], 1, 2, 8, 1),
            op(aten.select_backward.default, v, [4, 3, 6], 1, 2),
            op(aten.index_select.default, v, 1, row),
            op(aten.gather.default, v, 0, index),
            op(aten.embedding.default, v, index),
        ]
    cases += [
        op(aten.full.default, [2, 3], 1.5, dtype=dtype),
        op(aten.ones_like.default, x),
        op(aten.zeros_like.default, y),
        op(aten.full_like.default, x, float("inf")),
        op(aten.scalar_tensor.default, 2.0, dtype=dtype),
        op(aten.arange.start, 2, 7),
        op(aten.fill.Scalar, x, 3.0),
    ]
    check(cases, [x, y, index, row])


@both
def test_reductions(dtype):
    special = torch.tensor([1.0, float("nan"), 3.0], dtype=dtype)
    tensors = [
        torch.randn(3, 4, 40, dtype=dtype),
        torch.randn(40, 4, 3, dtype=dtype).permute(2, 1, 0),
        torch.randn((), dtype=dtype),
        special,
    ]
    cases = [op(aten.linalg_vector_norm.default, special, order) for order in (2, float("inf"))]
    cases += [op(getattr(aten, n).default, x) for n in ("sum", "mean", "amax", "amin") for x in tensors]
    for x in tensors[:2]:
        for dims in ([0], [1], [2], [0, 2], [-1, -2], [0, 1, 2]):
            for keep in (False, True):
                cases += [op(aten.sum.dim_IntList, x, dims, keep), op(aten.mean.dim, x, dims, keep)]
                cases += [op(aten.amax.default, x, dims, keep), op(aten.amin.default, x, dims, keep)]
        norm = aten.linalg_vector_norm.default
        cases += [op(norm, x, order) for order in (2, 1, 0, 3, 0.5, float("inf"), -float("inf"))]
        cases += [op(norm, x, 2, [1], keep) for keep in (False, True)]
        cases += [op(aten.argmax.default, x, 1), op(aten.argmin.default, x, -1, True)]
        cases += [op(aten._softmax.default, x, d, False) for d in (0, 1, -1)]
        cases += [op(aten._log_softmax.default, x, d, False) for d in (0, 1, -1)]
        cases += [op(aten._softmax_backward_data.default, x, tensors[0], d, dtype) for d in (0, -1)]
        cases += [op(aten._log_softmax_backward_data.default, x, tensors[0], d, dtype) for d in (0, -1)]
    check(cases, tensors)


@both
def test_products(dtype):
    a, b, at, bt = (torch.randn(s, dtype=dtype) for s in ((3, 20), (20, 5), (20, 3), (5, 20)))
    p, q, v, c = (torch.randn(s, dtype=dtype) for s in ((2, 3, 4), (2, 4, 300), (20,), (5,)))
    views = [at.t(), bt.t()]
    cases = [op(aten.mm.default, x, y) for x in (a, views[0]) for y in (b, views[1])]
    cases += [op(aten.addmm.default, c, x, y) for x in (a, views[0]) for y in (b, views[1])]
    cases += [
        op(aten.addmm.default, c, a, b, beta=0.5, alpha=-2.0),
        op(aten.bmm.default, p, q),
        op(aten.mv.default, a, v),
        op(aten.dot.default, v, v),
    ]
    check(cases, [a, b, p, q, v, c, *views])


@both
def test_losses(dtype):
    x, y, w = torch.rand(4, 3, dtype=dtype), torch.rand(4, 3, dtype=dtype), torch.rand(3, dtype=dtype)
    edge, hard = torch.tensor([0.0, 1.0, 0.5, 1.0], dtype=dtype), torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=dtype)
    g, each = torch.tensor(0.7, dtype=dtype), torch.rand(4, 3, dtype=dtype)
    target, rows = torch.tensor([2, 0, -100, 1]), torch.rand(4, dtype=dtype)
    total = torch.tensor(3.0, dtype=dtype)
    cases = []
    for reduction in (0, 1, 2):
        grad = g if reduction else each
        cases += [op(aten.binary_cross_entropy.default, x, y, weight, reduction) for weight in (None, w)]
        cases += [op(aten.binary_cross_entropy_backward.default, grad, x, y, weight, reduction) for weight in (None, w)]
        cases += [
            op(aten.binary_cross_entropy.default, edge, hard, None, reduction),
            op(aten.binary_cross_entropy_with_logits.default, each, y, None, None, reduction),
            op(aten.mse_loss.default, x, y, reduction),
            op(aten.mse_loss_backward.default, grad, x, y, reduction),
        ]
        for weight in (None, w):
            cases += [
                op(aten.nll_loss_forward.default, x, target, weight, reduction, -100),
                op(aten.nll_loss_backward.default, g if reduction else rows, x, target, weight, reduction, -100, total),
            ]
    cases += [op(aten.binary_cross_entropy_backward.default, g, edge, hard)]
    check(cases, [x, y, w, edge, hard, g, each, target, rows, total])


@both
def test_normalization_and_embedding(dtype):
    x, w, b = torch.randn(4, 3, 5, dtype=dtype), torch.randn(5, dtype=dtype), torch.randn(5, dtype=dtype)
    turned, index = torch.randn(5, 3, 4, dtype=dtype).permute(2, 1, 0), torch.randint(0, 6, (4, 3))
    cases = []
    for v in (x, turned):
        cases += [op(aten.native_layer_norm.default, v, [5], *p, 1e-5) for p in ((w, b), (w, None), (None, None))]
        cases += [op(aten.var.correction, v, d, correction=c, keepdim=k) for d in ([0], [1, 2], None)
                  for c in (0, 1) for k in (False, True)]  # fmt: skip
        cases += [op(aten.embedding_dense_backward.default, v, index, 6, 2, False)]
        cases += [op(aten.embedding_dense_backward.default, v, index, 6, pad, True) for pad in (-1, 2)]
    check(cases, [x, w, b, turned, index])


def mlp(dtype, hidden=(8,), act=nn.ReLU, out=1):
    torch.manual_seed(0)
    layers, width = [], 2
    for h in hidden:
        layers += [nn.Linear(width, h), act()]
        width = h
    return nn.Sequential(*layers, nn.Linear(width, out)).to(dtype)


STEPS = {
    "bce": lambda m, x, y: F.binary_cross_entropy(m(x).sigmoid(), y),
    "logits": lambda m, x, y: F.binary_cross_entropy_with_logits(m(x), y),
    "mse": lambda m, x, y: F.mse_loss(m(x).tanh(), y),
    "plain": lambda m, x, y: ((m(x) - y) ** 2).mean() + sum(p.pow(2).sum() for p in m.parameters()) * 0.01,
    "softmax": lambda m, x, y: (m(x).softmax(0) * y).sum(),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU])
def test_whole_step(name, act):
    model = mlp(torch.float64, (4, 5), act)
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, 1, dtype=torch.float64)
    joint = differentiate(capture(lambda x, y: STEPS[name](model, x, y), x, y))
    flat = joint.bind((x, y), {})
    for mine, theirs in zip(native.compile(joint)(*flat), joint.function(*flat), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_classifier():
    model = mlp(torch.float64, (5,), out=3)
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randint(0, 3, (6,))
    joint = differentiate(capture(lambda x, y: F.cross_entropy(model(x), y), x, y))
    flat = joint.bind((x, y), {})
    for mine, theirs in zip(native.compile(joint)(*flat), joint.function(*flat), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def update_graph(momentum=0.9, rate=0.05):
    """loss, w' and v' of gradient descent with momentum on a linear map, as a graph of (w, v, x, y)."""

    def step(w, v, x, y):
        error = x @ w - y
        v = momentum * v + x.t() @ error
        return (error * error).sum(), w - rate * v, v

    tensors = [torch.randn(3, 2), torch.zeros(3, 2), torch.randn(5, 3) * 0.3, torch.randn(5, 2)]
    return capture(step, *tensors), tensors


def test_loop_equals_steps_and_calls():
    graph, start = update_graph()
    program, feedback = native.compile(graph), {1: 0, 2: 1}
    called, losses = [t.clone() for t in start], []
    for _ in range(1000):
        loss, w, v = program(*called)
        called[0], called[1] = w, v
        losses.append(loss)
    stepped = [t.clone() for t in start]
    step_losses = [program.step(stepped, feedback)[0] for _ in range(1000)]
    looped = [t.clone() for t in start]
    outputs, loop_losses = program.loop(looped, feedback, 1000)
    assert torch.equal(torch.stack(losses), loop_losses) and torch.equal(torch.stack(step_losses), loop_losses)
    assert torch.equal(outputs[0], losses[-1]) and len(outputs) == 1
    for a, b, c in zip(called, stepped, looped, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    again = [t.clone() for t in start]
    assert torch.equal(program.loop(again, feedback, 1000, every=7)[1], loop_losses[::7])


def test_inputs_that_change_between_calls():
    graph, start = update_graph()
    program = native.compile(graph)
    w, v, x, y = (t.clone() for t in start)

    def same():
        for mine, theirs in zip(program(w, v, x, y), graph.function(w, v, x, y), strict=True):
            torch.testing.assert_close(mine, theirs)

    same()
    x.mul_(2)  # in place
    same()
    x.data = torch.randn(5, 3)  # other memory, same object
    same()
    x = torch.randn(3, 5).t()  # not contiguous
    same()
    x.mul_(3)
    same()
    x = x.contiguous()
    same()


def test_feedback_into_memory_that_is_not_contiguous():
    graph, start = update_graph()
    program, feedback = native.compile(graph), {1: 0, 2: 1}
    plain = [t.clone() for t in start]
    strided = [t.t().contiguous().t() for t in start]
    program.loop(plain, feedback, 10)
    program.loop(strided, feedback, 4)
    for _ in range(6):
        program.step(strided, feedback)
    assert torch.equal(plain[0], strided[0]) and torch.equal(plain[1], strided[1])


def test_outputs_are_fresh_and_versions_move():
    graph, start = update_graph()
    program = native.compile(graph)
    first = program(*start)
    kept = [t.clone() for t in first]
    program(*[t * 2 for t in start])
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    version = start[0]._version
    program.step(start, {1: 0, 2: 1})
    assert start[0]._version > version


def test_threads():
    graph, start = update_graph()
    program = native.compile(graph)
    want, wrong = program(*start), []

    def work():
        mine = [t.clone() for t in start]
        for _ in range(200):
            wrong.extend(a for a, b in zip(program(*mine), want, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_refusals_say_why():
    big = capture(lambda a, b: a @ b, torch.randn(300, 300), torch.randn(300, 300))
    assert "multiply-adds" in (native.supports(big) or "")
    conv = capture(lambda x, w: F.conv2d(x, w), torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3))
    assert "convolution" in (native.supports(conv) or "")
    half = capture(lambda x: x * 2, torch.randn(3).half())
    assert "float16" in (native.supports(half) or "")
    with pytest.raises(BackendError, match="convolution"):
        native.compile(conv)


def test_wrong_arguments_are_errors():
    graph, start = update_graph()
    program = native.compile(graph)
    with pytest.raises(BackendError, match="takes 4 tensors"):
        program(*start[:2])
    with pytest.raises(BackendError, match="compiled for"):
        program(start[0].double(), *start[1:])
    with pytest.raises(BackendError, match="one input"):
        program.step(start, {1: 0, 2: 0})
    with pytest.raises(BackendError, match="cannot be fed back"):
        program.step(start, {1: 3})


def test_without_a_compiler(monkeypatch):
    graph, _ = update_graph()
    monkeypatch.setattr(c_compiler, "compiler", lambda: None)
    assert "C compiler" in (native.supports(graph) or "")
    with pytest.raises(BackendError, match="C compiler"):
        native.compile(graph)


def test_cache_folder_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))
    folder = c_compiler.cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # what others can write is never loaded
    monkeypatch.setattr(c_compiler, "_private_temporary", lambda: tmp_path / "private")
    assert c_compiler.cache_folder() == tmp_path / "private"


# -- indices out of range: PyTorch raises, and so does the compiled function, before anything is written --------------


class Reads(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table = nn.Parameter(torch.randn(5, 4))

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        if self.how == "embedding":
            return F.embedding(index, self.table)
        return self.table[:3]


@pytest.mark.parametrize("bad", [5, -1])
@pytest.mark.parametrize("how", ["embedding", "label"])
def test_an_index_out_of_range_stops_the_step(how: str, bad: int) -> None:
    torch.manual_seed(0)
    model = Reads(how)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, backend="native")
    good, wrong = torch.tensor([0, 3, 2]), torch.tensor([0, bad, 2])
    labels = torch.tensor([1, 0, 3])
    step(good, labels)
    before = model.table.detach().clone()
    batch = (good, wrong) if how == "label" else (wrong, labels)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):  # the witness
        nn.CrossEntropyLoss()(model(batch[0]), batch[1])
    for call in (lambda: step(*batch), lambda: step.run(*batch, steps=3)):
        with pytest.raises(IndexError, match=f"index out of range: aten.{'nll_loss' if how == 'label' else how}.* at "):
            call()
        assert torch.equal(model.table, before), "nothing was written"
    step(good, labels)
    assert not torch.equal(model.table, before), "it goes on"


@pytest.mark.parametrize("bad", [5, -1])
@pytest.mark.parametrize("operator", [aten.index_select.default, aten.gather.default])
def test_an_index_out_of_range_stops_a_call(operator, bad: int) -> None:
    x, good, wrong = torch.randn(5), torch.tensor([0, 3, 2]), torch.tensor([0, bad, 2])
    program = native.compile(graph_of([(operator, (x, 0, good), {})], [x, good]))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):  # the witness
        operator(x, 0, wrong)
    with pytest.raises(IndexError, match=f"index out of range: {operator} has 5 to choose from"):
        program(x, wrong)
    assert torch.equal(program(x, good)[0], operator(x, 0, good))


def test_a_label_to_be_ignored_is_not_out_of_range() -> None:
    model = Reads("label")
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), backend="native")
    for _ in range(2):
        expected = nn.CrossEntropyLoss()(model(torch.zeros(3)), torch.tensor([1, -100, 3])).item()
        assert step(torch.zeros(3), torch.tensor([1, -100, 3])).item() == pytest.approx(expected)


def test_a_number_has_one_element_to_choose_from() -> None:
    x, one, vector = torch.tensor(3.0), torch.tensor(0), torch.tensor([0])
    cases = [(aten.gather.default, (x, 0, i), {}) for i in (one, vector)]
    cases += [(aten.index_select.default, (x, 0, i), {}) for i in (one, vector)]
    check(cases, [x, one, vector])


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_tensors_without_strides_are_left_to_pytorch(layout: str) -> None:
    """Sparse features through ``nn.Linear``: ``auto`` took native, which ended at the address of the data."""
    dense = torch.eye(5, 3, dtype=torch.float64)
    sparse = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
    fxg = torch.fx.Graph()
    node = fxg.placeholder("x")
    node.meta["val"] = sparse
    fxg.output((node,))
    calling = Calling(None, (), (), None, (), (), ())
    graph = Graph(fxg, (Input("input", "x", None),), (Output("output", "y"),), calling)
    assert "by strides" in str(native.supports(graph))


def test_a_step_takes_sparse_features() -> None:
    dense, y = torch.eye(5, 3, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    losses = []
    for x in (dense, dense.to_sparse()):
        torch.manual_seed(0)
        model = nn.Linear(3, 1, dtype=torch.float64)
        step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1))
        losses.append(torch.stack([step(x, y) for _ in range(3)]))
    assert (losses[0].diff() < 0).all()
    torch.testing.assert_close(losses[1], losses[0])

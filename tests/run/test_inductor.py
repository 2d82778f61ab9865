"""What the compiler is given. (That its kernels are right is asked of whole models, in ``frontend`` and ``train``.)"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import memograd as mg
from memograd import lstm_layer
from memograd.pipeline import capture_for, differentiate
from memograd.run import inductor

ops: Any = torch.ops


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * g * ctx.saved_tensors[0]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Tensor]]:
    """The operands of each graph that the compiler gets; the graph itself runs in its place."""
    given: list[list[torch.Tensor]] = []

    def compile(module: Any, operands: list[torch.Tensor], options: Any) -> Any:
        given.append(operands)
        return module

    monkeypatch.setattr(inductor, "inductor_graph", compile)
    return given


def derivative_of(f: Any, *args: torch.Tensor) -> Any:
    """Of the result's sum; its inputs are the arguments and a cotangent, whose name is no variable's."""
    graph = capture_for(f, args, {}, [0], False)
    return differentiate(graph, [graph.inputs[0].name], cotangents="output")


def test_a_graph_is_compiled_once_for_each_way_its_operands_lie_in_memory(given: Any) -> None:
    x = torch.arange(6.0).view(2, 3)
    function = inductor.compiled(derivative_of(lambda x: x.sin() * x, x))
    for other in (x, x + 1, x.t().contiguous().t(), x):
        y, gradient = function(other, torch.ones(2, 3))
        torch.testing.assert_close(y, other.sin() * other)
        torch.testing.assert_close(gradient, other.sin() + other * other.cos())
    assert [operands[0].stride() for operands in given] == [(3, 1), (1, 2)]


def test_a_product_is_added_with_its_factor() -> None:
    """Really compiled: PyTorch 2.13's compiler forgets the factor."""
    x, a, b = torch.randn(3, 2).double(), torch.randn(3, 4).double(), torch.randn(4, 2).double()

    def program(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        single = a.float() @ b.float()
        return torch.add(x, a @ b, alpha=0.5), torch.add(a @ b, x, alpha=3), torch.add(x, single, alpha=1 / 3)

    function = inductor.compiled(capture_for(program, (x, a, b), {}))
    torch.testing.assert_close(tuple(function(x, a, b)), program(x, a, b))


@pytest.mark.parametrize(("width", "tried"), [(8, [True]), (600, [False])])
@pytest.mark.parametrize("fails", [False, True])
def test_small_kernels_are_called_from_cpp(
    width: int, tried: list[bool], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from Python where that fails. (Others here compile them.)"""
    asked: list[bool] = []

    def compile(module: Any, operands: Any, options: Any) -> Any:
        asked.append(options["cpp_wrapper"])
        if fails and asked == [True]:
            raise NotImplementedError
        return module

    monkeypatch.setattr(inductor, "inductor_graph", compile)
    x, w = torch.randn(width, width), torch.randn(width, width)
    function = inductor.compiled(capture_for(lambda x, w: torch.tanh(x @ w).sum(0), (x, w), {}))
    torch.testing.assert_close(function(x, w)[0], torch.tanh(x @ w).sum(0))
    assert asked == ([*tried, False] if fails and tried == [True] else tried)


def test_what_is_drawn_is_drawn_at_each_call(given: Any) -> None:
    function = inductor.compiled(derivative_of(lambda x: x * torch.rand(8), torch.ones(8)))
    first, second = (function(torch.ones(8), torch.ones(8))[0] for _ in range(2))
    assert len(given) == 1 and not torch.equal(first, second)


def test_a_graph_that_calls_python_goes_through_dynamo(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    x = torch.arange(3.0)
    graph = derivative_of(lambda x: Square.apply(x).sin(), x)
    y, gradient = inductor.compiled(graph)(x, torch.ones(3))
    assert given == []
    torch.testing.assert_close((y, gradient), ((x * x).sin(), 2 * x * (x * x).cos()))


def test_what_the_compiler_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, operands: Any, options: Any) -> Any:
        raise RuntimeError("no such kernel\nat length")

    monkeypatch.setattr(inductor, "inductor_graph", broken)
    with pytest.raises(mg.BackendError, match=r"Inductor cannot compile this step: no such kernel$"):
        inductor.compiled(derivative_of(torch.sin, torch.ones(2)))(torch.ones(2), torch.ones(2))


def an_lstm() -> tuple[nn.LSTM, torch.Tensor]:
    torch.manual_seed(0)
    return nn.LSTM(5, 6, num_layers=2, batch_first=True), torch.randn(3, 4, 5)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_what_is_said_of_an_lstm_s_workspace_is_so(default: torch.dtype) -> None:
    """Compilers believe it. In whatever precision other tensors are made meanwhile."""
    model, x = an_lstm()
    weights = [w.detach() for w in model.all_weights[0]]
    zero = torch.zeros(3, 6)
    lstm_layer._workspace.cache_clear()
    torch.set_default_dtype(default)
    operands = (x.transpose(0, 1).contiguous(), *weights, zero, zero, False, [], 2, 6, 1, True, False, False, True)
    real = ops.memograd.lstm_layer.default(*operands)
    try:
        with FakeTensorMode() as mode:
            said = ops.memograd.lstm_layer.default(
                *(mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in operands)
            )
    finally:
        torch.set_default_dtype(torch.float32)
    assert [(t.shape, t.stride(), t.dtype) for t in said] == [(t.shape, t.stride(), t.dtype) for t in real]
    assert real[3].numel() > 1


def test_an_lstm_runs_once_where_no_gradients_are_recorded(given: Any) -> None:
    model, x = an_lstm()
    graph = capture_for(lambda x: model(x)[0].square().sum(), (x,), {}, [0], False)
    graph = differentiate(graph, [i.name for i in graph.inputs if i.tensor is None])
    if ops.aten.mkldnn_rnn_layer.default not in {n.target for n in graph.nodes}:
        pytest.skip("this PyTorch has no LSTM kernel")
    workspaces: list[Any] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is ops.memograd.lstm_layer_backward.default:
                workspaces.append(args[10].numel())
            return func(*args, **(kwargs or {}))

    function = inductor.compiled(graph)
    flat = [t.detach() for t in graph.bind((x,), {})]
    with Watch():
        results = function(*flat)
    assert len(workspaces) == 2 and min(workspaces) > 1
    y = x.clone().requires_grad_()
    [expected] = torch.autograd.grad(model(y)[0].square().sum(), y)
    [gradient] = [results[k] for k in graph.positions("gradient")]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
def test_an_lstm_is_compiled() -> None:
    model, x = an_lstm()
    twin = copy.deepcopy(model)
    optimizers = [optim.Adam(m.parameters(), 0.01) for m in (model, twin)]
    step = mg.TrainStep(model, lambda out, y: (out[0] - y).square().sum(), optimizers[0], backend="inductor")
    y = torch.rand(3, 4, 6)
    for _ in range(3):
        loss = step(x, y)
        optimizers[1].zero_grad()
        plain = (twin(x)[0] - y).square().sum()
        plain.backward()
        optimizers[1].step()
        torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(model.state_dict(), twin.state_dict())

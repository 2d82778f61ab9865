"""LSTM layers of the native backend beside PyTorch's own, in double precision."""

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.lower.lower import lower
from memograd.run import native


class Reader(nn.Module):
    def __init__(self, *sizes, **options):
        super().__init__()
        self.lstm = nn.LSTM(*sizes, **options)

    def forward(self, x, *state):
        out, (h, c) = self.lstm(x, state or None)
        return (out * out).sum() + (h * c).cos().sum()


def has_layer() -> bool:
    graph = mg.capture(Reader(2, 3), torch.randn(2, 2, 2))
    return any(n.target is torch.ops.aten.mkldnn_rnn_layer.default for n in graph.nodes)


pytestmark = pytest.mark.skipif(not has_layer(), reason="this PyTorch has no such layer")


def gradients(model, *args):
    captured = mg.capture(model, *args)
    names = [i.name for i in captured.inputs if i.kind in ("parameter", "input")]
    lowered = lower(mg.differentiate(captured, names))
    assert native.supports(lowered) is None
    return native.compile(lowered)(*lowered.bind(args, {}))


@pytest.mark.parametrize(
    "options, steps",
    [({}, 1), ({"bias": False}, 4), ({"bidirectional": True, "num_layers": 2, "batch_first": True}, 3)],
)
def test_a_layer_and_its_gradients_are_pytorchs(options, steps):
    torch.manual_seed(0)
    model = Reader(7, 19, **options)
    x = torch.randn(3, steps, 7) if "batch_first" in options else torch.randn(steps, 3, 7)
    depth = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    state = tuple(torch.randn(depth, 3, 19) for _ in range(2))
    args = tuple(t.requires_grad_() for t in (x, *state))
    value, *bars = gradients(model, *args)
    wide = Reader(7, 19, **options).double()
    wide.load_state_dict(model.state_dict())
    inputs = tuple(t.detach().double().requires_grad_() for t in args)
    expected = wide(*inputs)
    expected.backward()
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    wanted = [t.grad for t in (*wide.parameters(), *inputs)]
    assert len(bars) == len(wanted)
    for bar, grad in zip(bars, wanted, strict=True):
        torch.testing.assert_close(bar.double(), grad, rtol=1e-4, atol=1e-5)


def test_gates_far_out_and_not_finite_come_out_as_pytorchs():
    model = Reader(2, 3)
    x = torch.tensor([-1e30, -200.0, -60.0, -1e-6, 0.0, 1e-6, 60.0, 1e4, float("inf"), float("nan")])
    x = x[:, None, None].expand(10, 10, 2).clone()  # ten steps of ten batches
    graph = lower(mg.capture(model.lstm, x))
    program = native.compile(graph)
    with torch.no_grad():
        expected, (h, c) = model.lstm(x)
    values = program(*graph.bind((x,), {}))
    torch.testing.assert_close(values, (expected, h, c), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_an_lstm_trains_as_it_does_on_the_eager_backend():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 5)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    losses = {}
    x, y = torch.randn(16, 9, 8), torch.randint(5, (16,))
    for backend in ("eager", "native"):
        torch.manual_seed(0)
        model = Last()
        step = mg.TrainStep(
            model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.01), backend=backend
        )
        losses[backend] = torch.stack([step(x, y) for _ in range(8)])
    torch.testing.assert_close(losses["native"], losses["eager"], rtol=1e-4, atol=1e-5)

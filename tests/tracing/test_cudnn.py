"""What a CUDA device's own kernels would hide from a graph. The operators are called by name, on the CPU: capture
replaces them before anything runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from single_precision import fp32_precision
from torch import nn

import memograd as mg
from memograd.tracing.cudnn import plain_recurrence

aten = torch.ops.aten


class Norm(nn.BatchNorm1d):
    """Calls ``norm`` as ``F.batch_norm`` does where cuDNN is there."""

    def __init__(self, norm: torch._ops.OpOverload) -> None:
        super().__init__(3)
        self.norm = norm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        state = (self.weight, self.bias, self.running_mean, self.running_var)
        return self.norm(input, *state, self.training, self.momentum, self.eps)[0]


@pytest.mark.parametrize("norm", [aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default])
def test_running_statistics_are_results_of_the_graph(norm: torch._ops.OpOverload) -> None:
    """These operators write them, and their schemas do not say so."""
    x, ours, theirs = torch.randn(8, 3, 4), Norm(norm), nn.BatchNorm1d(3)
    graph = mg.capture(ours, x)
    assert [o.name for o in graph.outputs if o.kind == "mutation"] == ["running_mean", "running_var"]
    assert norm not in {n.target for n in graph.nodes}
    torch.testing.assert_close(graph(x), theirs(x))
    torch.testing.assert_close([*ours.buffers()][:2], [*theirs.buffers()][:2])


def test_without_running_statistics_and_in_eval_mode_nothing_is_written() -> None:
    x, w, b = torch.randn(8, 3, 4), torch.rand(3), torch.randn(3)
    mean, var = torch.randn(3), torch.rand(3)
    graph = mg.capture(lambda x: aten.cudnn_batch_norm(x, w, b, mean, var, False, 0.1, 1e-5)[0], x)
    torch.testing.assert_close(graph(x), F.batch_norm(x, mean, var, w, b, False, 0.1, 1e-5))
    alone = mg.capture(lambda x: aten.cudnn_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[0], x)
    torch.testing.assert_close(alone(x), F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5))
    assert not graph.positions("mutation") and not alone.positions("mutation")


def test_its_gradients_are_batch_norms() -> None:
    x, w, b = torch.randn(8, 3, 4, dtype=torch.float64), torch.rand(3).double(), torch.randn(3).double()

    def by_cudnn(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return aten.cudnn_batch_norm(x, w, b, torch.zeros(3).double(), torch.ones(3).double(), True, 0.1, 1e-5)[0].sin()

    found = mg.vjp(by_cudnn, x, w, b)[1](x)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    expected = torch.autograd.grad(F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5).sin(), leaves, x.detach())
    torch.testing.assert_close(found, expected)


def test_cudnn_is_not_asked_for_the_ctc_loss() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x if aten._use_cudnn_ctc_loss(x, x.long(), [3], [2], 0) else -x

    x = torch.rand(3, 1, 2)
    assert torch.equal(mg.capture(f, x)(x), -x)


class Watch(nn.Module):
    """Says whether cuDNN may be used while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(torch.backends.cudnn.enabled)
        return x


class Watched(nn.GRU, Watch):
    def __init__(self) -> None:
        nn.GRU.__init__(self, 2, 2)
        self.seen = []

    forward = Watch.forward


def test_only_recurrent_networks_run_without_cudnn() -> None:
    model = nn.Sequential(Watch(), Watched(), Watch())
    with plain_recurrence():
        model(torch.ones(2))
    assert [m.seen for m in model] == [[True], [False], [True]]
    model(torch.ones(2))
    assert [m.seen for m in model] == [[True, True], [False, True], [True, True]]


def test_cudnn_is_allowed_again_behind_a_network_that_fails() -> None:
    with pytest.raises(RuntimeError), plain_recurrence():
        nn.LSTM(2, 2)(torch.ones(1, 3))
    assert torch.backends.cudnn.enabled
    with pytest.raises(RuntimeError), plain_recurrence():
        try:
            nn.LSTM(2, 2)(torch.ones(1, 3))
        finally:
            assert torch.backends.cudnn.enabled


def test_cudnn_is_allowed_again_behind_captures_that_nest() -> None:
    with plain_recurrence(), plain_recurrence():
        nn.LSTM(2, 2)(torch.ones(1, 2))
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("frozen", [False, True])
def test_cudnns_other_flags_stay(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's testing library freezes the flags: from then on they change in a context only."""
    flags = torch.backends.cudnn
    with flags.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=False):
        monkeypatch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", not frozen)
        seen: list[tuple[bool, ...]] = []

        def now(*_: object) -> None:
            seen.append((flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32))

        model = nn.LSTM(2, 2)
        model.register_forward_pre_hook(now)
        with plain_recurrence():
            model(torch.ones(1, 2))
        now()
        assert seen == [(False, True, True, False), (True, True, True, False)]


def test_precisions_may_be_set_by_kind_of_operator() -> None:
    """PyTorch's own ``flags`` cannot be entered then."""
    model, x = nn.LSTM(2, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    (expected,) = torch.autograd.grad(model(x.requires_grad_())[0].sum(), x)
    with fp32_precision(torch.backends.cudnn.conv, "ieee"):
        assert torch.allclose(mg.grad(lambda x: model(x)[0].sum())(x.detach()), expected)

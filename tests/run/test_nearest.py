"""Images scaled by their nearest pixels are PyTorch's, to the last bit, for every size and scale."""

import pytest
import torch
import torch.nn.functional as F

import memograd as mg
from memograd import c_compiler
from memograd.lower.lower import lower
from memograd.run import nearest
from memograd.run.eager import Eager

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler on this machine")
COMPILED = torch.ops.memograd.nearest2d.default


def run(f, x):
    """What the eager backend makes of ``f``, and whether the loop did it."""
    graph = lower(mg.capture(f, x))
    used = any(n.target is COMPILED for n in nearest.compiled_nearest(graph).nodes)
    return Eager(graph).compute(graph.bind((x,), {}))[0], used


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(
    "how", [{"scale_factor": 2}, {"scale_factor": (3, 0.7)}, {"size": (41, 97)}, {"size": (29, 7)}]
)
def test_pixels_are_pytorchs(how, mode, dtype):
    x = torch.randn(6, 5, 29, 31, dtype=dtype)
    x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    value, used = run(lambda x: F.interpolate(x, mode=mode, **how), x)
    expected = F.interpolate(x, mode=mode, **how)
    assert used
    torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
    assert value.stride() == expected.stride() and torch.equal(value.signbit(), expected.signbit())


def test_what_lies_otherwise_is_left_to_pytorch():
    for x in (
        torch.randn(2, 16, 30, 30).contiguous(memory_format=torch.channels_last),
        torch.randn(1, 2, 3, 3),
        torch.randn(4, 8, 32, 32).to(torch.bfloat16),
    ):
        value, used = run(lambda x: F.interpolate(x, scale_factor=2), x)
        assert not used and torch.equal(value, F.interpolate(x, scale_factor=2))
    last = torch.randn(2, 16, 30, 30).contiguous(memory_format=torch.channels_last)
    assert torch.equal(COMPILED(last, [60, 60], None, None, False), F.interpolate(last, scale_factor=2))


def test_every_thread_does_its_share(monkeypatch):
    x = torch.randn(8, 16, 32, 32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    value, used = run(lambda x: F.interpolate(x, scale_factor=2), x)
    assert used and torch.equal(value, F.interpolate(x, scale_factor=2))


BACKWARD = torch.ops.memograd.nearest2d_backward.default


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(
    ("how", "compiled"),
    [
        ({"scale_factor": 2}, True),
        ({"scale_factor": (3, 2)}, True),
        ({"size": (13, 68)}, True),
        ({"scale_factor": (1, 5)}, True),
        ({"scale_factor": (2, 1.5)}, False),
        ({"size": (7, 34)}, False),
    ],
)
def test_gradients_are_pytorchs(how, compiled, mode, dtype):
    """Gradients of pixels are added in its order, so to the last bit."""
    x = torch.randn(6, 5, 13, 17, dtype=dtype, requires_grad=True)
    weights = torch.randn_like(F.interpolate(x, mode=mode, **how))
    weights[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])

    def loss(x):
        return (F.interpolate(x, mode=mode, **how) * weights).sum()

    graph = lower(mg.differentiate(mg.capture(loss, x)))
    assert any(n.target is BACKWARD for n in nearest.compiled_nearest(graph).nodes) is compiled
    ours = Eager(graph).compute(graph.bind((x.detach(),), {}))[1]
    (theirs,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours.signbit(), theirs.signbit())


def test_gradients_that_lie_otherwise_than_was_said():
    g = torch.randn(2, 16, 60, 60).contiguous(memory_format=torch.channels_last)
    theirs = torch.ops.aten.upsample_nearest2d_backward(g, [60, 60], [2, 16, 30, 30])
    assert torch.equal(BACKWARD(g, [60, 60], [2, 16, 30, 30], None, None, False), theirs)


def test_the_gradient_of_what_was_joined_to_others_is_a_part_of_a_longer_one():
    x, y = torch.randn(3, 4, 9, 11, requires_grad=True), torch.randn(3, 2, 18, 22)
    weights = torch.randn(3, 6, 18, 22)

    def loss(x):
        return (torch.cat([y, F.interpolate(x, scale_factor=2)], 1) * weights).sum()

    graph = lower(mg.differentiate(mg.capture(loss, x)))
    assert any(n.target is BACKWARD for n in nearest.compiled_nearest(graph).nodes)
    ours = Eager(graph).compute(graph.bind((x.detach(),), {}))[1]
    assert torch.equal(ours, torch.autograd.grad(loss(x), x)[0]) and ours.is_contiguous()


@pytest.mark.parametrize(
    "part", [lambda g: g[:, 1:], lambda g: g[1:, :3], lambda g: g[:, ::2], lambda g: g[..., 2:-2, :]]
)
def test_gradients_in_parts_of_a_longer_tensor(part):
    g = part(torch.randn(3, 6, 40, 36))
    how = (list(g.shape[2:]), [*g.shape[:2], g.shape[2] // 2, g.shape[3] // 2])
    theirs = torch.ops.aten.upsample_nearest2d_backward(g, *how)
    ours = BACKWARD(g, *how, None, None, False)
    assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()

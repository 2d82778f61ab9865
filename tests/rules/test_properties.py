"""Random programs against torch.autograd: equal gradients, linear pullbacks, and <u, J v> = <Jᵀ u, v>."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from programs import FAMILIES, programs

import memograd as mg

QUICK, THOROUGH = 20, 400
SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
NOT_IN_PYTORCH = ("not implemented for", "does not support", "is not supported", "input_is_complex == grad_is_complex")


def seeded(examples):
    """The same examples in every run."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW_IS_FINE
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@seeded(QUICK)
def test_one_operator(family, data):
    check_properties(data.draw(programs([family])))


@given(program=programs(list(FAMILIES), most=4))
@seeded(2 * QUICK)
def test_compositions(program):
    check_properties(program)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@seeded(THOROUGH)
def test_one_operator_thoroughly(family, data):
    check_properties(data.draw(programs([family])))


@pytest.mark.slow
@given(program=programs(list(FAMILIES), most=5))
@seeded(5 * THOROUGH)
def test_compositions_thoroughly(program):
    check_properties(program)


def test_jvp_of_logcumsumexp():
    x, way = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    step = 1e-6
    expected = (torch.logcumsumexp(x + step * way, 0) - torch.logcumsumexp(x - step * way, 0)) / (2 * step)
    torch.testing.assert_close(
        mg.jvp(lambda x: torch.logcumsumexp(x, 0), (x,), (way,))[1], expected, rtol=1e-6, atol=1e-8
    )


def check_properties(program):
    note(repr(program))
    f, inputs = program.function(), program.inputs
    generator = torch.Generator().manual_seed(0)
    u, v, *ways = (torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in [program.y, program.y, *inputs])
    expected = gradients(f, inputs, u)
    assume(all(g.isfinite().all() for g in [program.y, *expected]))
    tolerance = 1e-3 if torch.float32 in [t.dtype for t in inputs] else 1e-9

    out, pull = mg.vjp(f, *inputs)
    assert_close([out], [program.y], tolerance)
    found = pull(u)
    assert_close(found, expected, tolerance)

    combined = [2 * a - 3 * b for a, b in zip(found, pull(v), strict=True)]
    assert_close(pull(2 * u - 3 * v), combined, tolerance)

    _, pushed = mg.jvp(f, tuple(inputs), tuple(ways))
    assert pushed.shape == u.shape and pushed.dtype == u.dtype
    pairs = list(zip(expected, ways, strict=True))
    size = 1 + sum((g.abs() * w.abs()).sum().double() for g, w in pairs)
    assert abs(inner(u, pushed) - sum(inner(g, w) for g, w in pairs)) <= tolerance * size


def gradients(f, inputs, u):
    """By torch.autograd; zeros where it has none. What it cannot differentiate (complex softmax) has no witness."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    try:
        out = f(*leaves)
        found = torch.autograd.grad(out, leaves, u, allow_unused=True) if out.requires_grad else [None] * len(leaves)
    except RuntimeError as error:
        if not any(text in str(error) for text in NOT_IN_PYTORCH):
            raise
        assume(False)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True)]


def inner(a, b):
    return (a.conj() * b).real.sum().double()


def assert_close(ours, theirs, tolerance):
    """Shapes and dtypes exactly, values relative to the largest."""
    for a, b in zip(ours, theirs, strict=True):
        atol = tolerance * max(1.0, b.abs().max().item() if b.numel() else 0.0)
        torch.testing.assert_close(a, b, rtol=0, atol=atol)

"""Mixed dtypes, numbers and 0-dimensional tensors: values and gradients in autograd's dtype and shape."""

import pytest
import torch

import memograd as mg

SMOOTH = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)

NOT_IN_PYTORCH = (
    "with a bool tensor is not supported",  # True - x
    "on a bool tensor is not supported",  # the gradient of atan2(True, x)
    "input_is_complex == grad_is_complex",  # the gradient of where(c, real, complex)
    "unknown ivalue tag",  # the gradient of True ** x
    "must not be a complex number",  # alpha=2j for real numbers
    "Boolean alpha only supported",
)


def numbers(*shape, dtype=torch.float64, seed=0):
    """Away from zero; whole ones for integers."""
    t = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    if dtype.is_complex:
        return torch.complex(t, t.flip(0) if t.dim() else -t).to(dtype)
    return (3 * t).to(dtype)


def check(f, *inputs):
    """The value, and the gradient of every smooth input."""
    where = [k for k, x in enumerate(inputs) if x.dtype in SMOOTH]

    def of_smooth(*smooth):
        filled = list(inputs)
        for k, x in zip(where, smooth, strict=True):
            filled[k] = x
        return f(*filled)

    leaves = [inputs[k].clone().requires_grad_() for k in where]
    try:
        expected = of_smooth(*leaves)
        cotangent = numbers(*expected.shape, dtype=expected.dtype, seed=9)
        gradients = torch.autograd.grad(expected, leaves, cotangent, materialize_grads=True)
    except RuntimeError as error:
        if not any(text in str(error) for text in NOT_IN_PYTORCH):
            raise
        pytest.skip(str(error))
    out, pull = mg.vjp(of_smooth, *[x.detach() for x in leaves])
    torch.testing.assert_close(out, expected.detach(), check_stride=False)
    for ours, theirs in zip(pull(cotangent), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, check_stride=False)


BINARY = {
    "add": torch.add,
    "sub": lambda x, z: torch.sub(x, z, alpha=2),
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "where": lambda x, z: torch.where(torch.tensor([True, False, True]), x, z),
    "cat": lambda x, z: torch.cat([x.reshape(-1), z.reshape(-1), x.reshape(-1)]),
    "stack": lambda x, z: torch.stack([x.expand(3), z.expand(3)]),
}
REAL = {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "atan2": torch.atan2,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "hypot": lambda x, z: torch.hypot(*(t.to(torch.promote_types(x.dtype, z.dtype)) for t in (x, z))),
    "xlogy": torch.xlogy,
    "clamp": lambda x, z: torch.clamp(x, min=z),
    "copysign": torch.copysign,
}
PAIRS = [
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.int64, torch.float32),
    (torch.float32, torch.int32),
    (torch.bool, torch.float64),
    (torch.float64, torch.bool),
]
COMPLEX = [
    (torch.float32, torch.complex64),
    (torch.complex128, torch.float64),
    (torch.complex64, torch.float64),
    (torch.int64, torch.complex128),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("shapes", [((3,), (3,)), ((), (3,)), ((3,), ()), ((3,), (1,))], ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("f", [*BINARY.values(), *REAL.values()], ids=[*BINARY, *REAL])
def test_two_dtypes(f, pair, shapes):
    check(f, *(numbers(*shape, dtype=d, seed=k) for k, (d, shape) in enumerate(zip(pair, shapes, strict=True))))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("shapes", [((3,), (3,)), ((), (3,)), ((3,), ())], ids=str)
@pytest.mark.parametrize("pair", COMPLEX, ids=str)
@pytest.mark.parametrize("f", BINARY.values(), ids=list(BINARY))
def test_complex_and_other_dtypes(f, pair, shapes):
    check(f, *(numbers(*shape, dtype=d, seed=k) for k, (d, shape) in enumerate(zip(pair, shapes, strict=True))))


NUMBERS = {
    "add": lambda x, a: x + a,
    "radd": lambda x, a: a + x,
    "rsub": lambda x, a: a - x,
    "mul": lambda x, a: a * x,
    "div": lambda x, a: x / a,
    "rdiv": lambda x, a: a / x,
    "pow": lambda x, a: x**a,
    "rpow": lambda x, a: a**x,
    "where": lambda x, a: torch.where(torch.tensor([True, False, True]), x, a),
    "alpha": lambda x, a: torch.add(x, x, alpha=a),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("a", [2, 2.5, True, 0.5 + 2j], ids=str)
@pytest.mark.parametrize("f", NUMBERS.values(), ids=list(NUMBERS))
def test_python_numbers(f, a, dtype):
    check(lambda x: f(x, a), numbers(3, dtype=dtype))


TRIPLES = [
    (torch.float32, torch.float64, torch.float64),
    (torch.float64, torch.float32, torch.float32),
    (torch.float64, torch.float64, torch.bfloat16),
]
TERNARY = {
    "addcmul": lambda x, a, b: torch.addcmul(x, a, b, value=2),
    "addcdiv": lambda x, a, b: torch.addcdiv(x, a, b, value=2),
    "lerp": lambda x, a, b: torch.lerp(*(t.to(torch.promote_types(x.dtype, a.dtype)) for t in (x, a, b))),
    "where": lambda x, a, b: torch.where(x > 1, a, b),
    "clamp": torch.clamp,
    "cat": lambda x, a, b: torch.cat([x, a, b]),
    "products": lambda x, a, b: (x * a + b) / (a - 3 * b) * x.sum(),
}


@pytest.mark.parametrize("triple", TRIPLES, ids=str)
@pytest.mark.parametrize("f", TERNARY.values(), ids=list(TERNARY))
def test_three_dtypes(f, triple):
    check(f, *(numbers(3, dtype=dtype, seed=k) for k, dtype in enumerate(triple)))


def test_complex_value_in_addcmul():
    check(
        lambda x, a, b: torch.addcmul(x, a, b, value=1 + 2j),
        *(numbers(3, dtype=torch.complex128, seed=k) for k in (0, 1, 2)),
    )


REDUCTIONS = {
    "sum": lambda x: x.sum(dtype=torch.float64),
    "mean": lambda x: x.mean(0, dtype=torch.float64),
    "cumsum": lambda x: x.cumsum(0, dtype=torch.float64),
    "prod": lambda x: x.prod(0, dtype=torch.float64),
    "softmax": lambda x: x.softmax(0, dtype=torch.float64),
    "log_softmax": lambda x: x.log_softmax(0, dtype=torch.float64),
    "norm": lambda x: torch.linalg.vector_norm(x, dtype=torch.float64),
    "to": lambda x: x.to(torch.float64).exp().to(torch.float16),
    "to complex": lambda x: x.to(torch.complex128) ** 2,
    "type_as": lambda x: x.type_as(torch.ones(1, dtype=torch.float64)).sin(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("f", REDUCTIONS.values(), ids=list(REDUCTIONS))
def test_given_dtypes(f, dtype):
    check(f, numbers(3, dtype=dtype))

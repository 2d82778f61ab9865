"""Rules of elementwise arithmetic and functions, against autograd."""

import pytest
import torch
from witness import check

import memograd as mg

UNARY = [
    "neg",
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "sigmoid",
    "atan",
    "asinh",
    "erf",
    "erfc",
    "sinc",
    "abs",
    "sgn",
    "frac",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sign",
    "square",
    "deg2rad",
    "rad2deg",
    "i0",
    "nan_to_num",
    "special.i0e",
    "special.i1",
    "special.i1e",
    "special.erfcx",
    "special.log_ndtr",
]
POSITIVE = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma", "digamma", "special.entr"]
UNIT = ["asin", "acos", "atanh", "erfinv", "logit", "special.ndtri"]
COMPLEX = "exp log sqrt rsqrt reciprocal sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh abs sgn angle conj"
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "add_alpha": lambda x, z: torch.add(x, z, alpha=3),
    "sub_alpha": lambda x, z: torch.sub(x, z, alpha=3),
    "rsub": lambda x, z: torch.rsub(x, z, alpha=2),
    "mul": torch.mul,
    "div": torch.div,
    "div_floor": lambda x, z: torch.div(x, z, rounding_mode="floor") + x,
    "fmod": torch.fmod,
    "remainder": torch.remainder,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "copysign": torch.copysign,
    "ldexp": torch.ldexp,
    "xlogy": lambda x, z: torch.xlogy(x, z.abs()),
    "xlog1py": lambda x, z: torch.special.xlog1py(x, z.abs()),
    "pow": lambda x, z: x.abs().pow(z),
    "lerp": lambda x, z: torch.lerp(x, z, 0.3),
    "lerp_tensor": lambda x, z: torch.lerp(x, z, z * 2),
    "addcmul": lambda x, z: torch.addcmul(x, z, x, value=2),
    "addcdiv": lambda x, z: torch.addcdiv(x, x, z, value=2),
    "where": lambda x, z: torch.where(x > z, x, z),
    "clamp": lambda x, z: torch.clamp(x, -z.abs(), z.abs() / 2),
    "clamp_min": torch.clamp_min,
    "clamp_max": torch.clamp_max,
}
SHAPES = [((), ()), ((3,), ()), ((2, 1), (3,)), ((4, 1, 2), (3, 1)), ((0, 2), (2,))]


def values(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def function(name):
    owner = torch
    for part in name.split("."):
        owner = getattr(owner, part)
    return owner


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(), (3, 2), (0, 2)])
def test_functions_of_one_number_have_the_gradients_of_autograd(name, shape):
    check(function(name), values(*shape))


@pytest.mark.parametrize("name", [*POSITIVE, *UNIT, "acosh"])
def test_unary_on_its_domain(name):
    x = torch.rand(5, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    check(function(name), x + 1 if name == "acosh" else x)


@pytest.mark.parametrize("name", COMPLEX.split())
def test_functions_of_complex_numbers_have_the_gradients_of_autograd(name):
    check(function(name), values(4, dtype=torch.complex128))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_functions_of_two_numbers_have_the_gradients_of_autograd(name, shapes):
    check(BINARY[name], values(*shapes[0]), values(*shapes[1], seed=1))


@pytest.mark.parametrize("name", ["add", "sub_alpha", "mul", "div", "pow_complex", "lerp", "addcmul", "addcdiv"])
def test_binary_complex_and_mixed(name):
    f = torch.pow if name == "pow_complex" else BINARY[name]
    z = values(2, 1, dtype=torch.complex128, seed=1)
    check(f, values(3, dtype=torch.complex128), z)
    if name in ("add", "mul", "div"):
        check(f, values(3), z)
        check(f, z, values(3))


@pytest.mark.parametrize("p", [0, 1, 2, 3, 0.5, -1, -1.5])
def test_powers_with_numbers(p):
    check(lambda x: x.pow(p), values(4).abs() + 0.1)
    check(lambda x: torch.pow(abs(p), x), values(4).abs(), nan=p == 0)  # 0 times log(0)²


def test_power_at_zero():
    x = torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.double)
    check(torch.pow, x, torch.tensor([0.0, 1.0, 2.0, 0.0], dtype=torch.double), second=False)
    check(lambda x: x.pow(2), x)


def test_numbers_on_the_other_side():
    check(lambda x: 2 - 3 * x / 4 + 1 / (x * x + 2) - (x + 1), values(3))


@pytest.mark.parametrize("name", ["maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", "copysign", "where"])
def test_functions_of_two_numbers_where_they_are_equal_have_the_gradients_of_autograd(name):
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.double)
    check(BINARY[name], x, torch.tensor([-1.0, 0.0, 2.0, 1.0], dtype=torch.double), nan=name == "copysign")


@pytest.mark.parametrize("bounds", [(-1, 1), (None, 1), (-1, None), (1, -1)])
def test_clamp_at_its_bounds(bounds):
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.double)
    check(lambda x: x.clamp(*bounds), x)
    limits = [None if b is None else torch.tensor(float(b), dtype=torch.double) for b in bounds]
    given = [b for b in limits if b is not None]

    def clamp(x, *tensors):
        remaining = iter(tensors)
        return x.clamp(*[None if b is None else next(remaining) for b in limits])

    check(clamp, x, *given)


def test_absolute_value_and_sinc_at_zero():
    x = torch.tensor([0.0, -1.0], dtype=torch.double)
    check(torch.abs, x)
    check(torch.sinc, x, second=False)


def test_promotion():
    check(lambda x, z: x * z + x, values(3), values(3, dtype=torch.float32), second=False, rtol=1e-5)


def test_building_complex_numbers():
    check(torch.complex, values(3), values(3, seed=1))
    check(torch.polar, values(3).abs(), values(3, seed=1))
    check(lambda x: torch.view_as_complex(x), values(3, 2))
    check(lambda x: torch.view_as_real(x) * 2, values(3, dtype=torch.complex128))
    check(lambda x: x.real * x.imag + x.conj().imag, values(3, dtype=torch.complex128))


@pytest.mark.parametrize("n", [1, 2])
def test_polygamma_has_the_gradients_of_autograd(n):
    check(lambda x: torch.polygamma(n, x), values(3).abs() + 0.5)
    check(lambda x: (x * 2).polygamma_(n), values(3).abs() + 0.5)


def three_norm(x):
    return torch.linalg.vector_norm(x, 3)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (torch.sgn, torch.tensor([0, 1 + 2j], dtype=torch.complex128)),
        (torch.angle, torch.tensor([0, 1 + 2j], dtype=torch.complex128)),
        (torch.sinc, torch.tensor([0, 1.5], dtype=torch.double)),
        (lambda x: x.logit(0.1), torch.tensor([0, 0.5], dtype=torch.double)),
        (lambda x: x ** torch.tensor([0, 2.0]), torch.zeros(2, dtype=torch.double)),
        (lambda p: torch.tensor([0, 2.0]) ** p, torch.ones(2, dtype=torch.double)),
        (torch.std, torch.ones(3, dtype=torch.double)),
        (three_norm, torch.zeros(2, dtype=torch.double)),
    ],
    ids=["sgn", "angle", "sinc", "logit", "base", "exponent", "std", "norm"],
)
def test_jvp_where_autograd_takes_zero_for_the_derivative(f, x):
    """The pullback is linear there too: its transpose is zero, not nan."""
    way = torch.ones_like(x)
    torch.testing.assert_close(mg.jvp(f, (x,), (way,))[1], torch.func.jvp(f, (x,), (way,))[1])


def test_angle_of_the_origin():
    check(torch.atan2, torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, 2.0]).double(), second=False)

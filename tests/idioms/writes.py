"""Lines that make fresh tensors, and lines that write: into parts, in place, by index."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from idioms.drawn import GIVEN, Drawn
from idioms.expressions import expression, latest, pick, position, sizes

SHAPED = {"F": "(B, T)", "R": "(T,)", "C": "(B,)", "S": "()"}
FILLED = ["torch.zeros({})", "torch.ones({})", "torch.full({}, 0.5)", "x.new_zeros({})", "w.new_ones({})"]
FILLED += ["torch.rand({})", "torch.randn({})", "x.new_full({}, 2.0)", "torch.zeros({}).requires_grad_(False)"]
LIKE = [
    "torch.zeros_like({})",
    "torch.ones_like({})",
    "torch.full_like({}, 0.3)",
    "torch.rand_like({})",
    "{}.new_zeros({}.shape)",
]
FRAMES = [
    "torch.eye(B, T)",
    "torch.arange(B * T, dtype=x.dtype).view(B, T)",
    "torch.linspace(0, 1, B * T).reshape(B, T)",
]
FRAMES += [
    "torch.tensor([[0.5] * T] * B)",
    "torch.zeros(T, B).t()",
    "torch.zeros(B, 2 * T)[:, ::2]",
    "torch.zeros(B * T).view(B, -1)",
]
ROWS = [
    "torch.arange(T, dtype=x.dtype)",
    "torch.linspace(0, 1, T)",
    "torch.tensor([0.5] * T)",
    "torch.logspace(0, 0.5, T)",
]
NUMBERS = ["torch.tensor(0.0)", "torch.tensor(0.5)", "torch.scalar_tensor(1.0)", "torch.as_tensor(0.0)"]
EMPTY = [
    "torch.empty({})",
    "torch.empty_like({})",
    "{}.new_empty({}.shape)",
    "torch.empty_strided({}.shape, {}.stride())",
]


def factory(draw: Any, p: Drawn) -> None:
    """A fresh tensor."""
    letter = pick(draw, "F", "F", "R", "S")
    p.attempt(f"{p.new()} = {fresh(draw, p, letter)}")


def fresh(draw: Any, p: Drawn, letter: str) -> str:
    own = {"F": FRAMES, "R": ROWS, "S": NUMBERS}.get(letter, [])
    form = pick(draw, *FILLED, *LIKE, *own)
    if form in LIKE:
        names = p.named(*sizes(p, letter)) or ["x.sum()"]
        return form.format(*[latest(draw, names)] * 2)
    return form.format(SHAPED[letter])


def empty_then_filled(draw: Any, p: Drawn) -> None:
    """Memory nobody has written to, then a value for each of its places."""
    name, like = p.new(), pick(draw, *p.named(p.B, p.T))
    make = pick(draw, *EMPTY)
    make = make.format("(B, T)") if make == EMPTY[0] else make.format(*[like] * 2)
    each = expression(draw, p, "C", loop=True)
    whole = expression(draw, p, "F")
    writes = [f"for t in range(T):\n    {name}[:, t] = {each}", f"{name}[:] = {whole}", f"{name}.copy_({whole})"]
    p.attempt(f"{name} = {make}", pick(draw, *writes))


def assignment(draw: Any, p: Drawn) -> None:
    p.attempt(f"{p.new()} = {expression(draw, p, pick(draw, 'F', 'F', 'R', 'C', 'S'))}")


# -- writes --------------------------------------------------------------------------------------------------------


def write(draw: Any, p: Drawn) -> None:
    """To a part of a tensor, or to all of it."""
    p.attempt(pick(draw, assigned, assigned, method, indexed)(draw, p))


def target(draw: Any, p: Drawn) -> tuple[str, str]:
    """A name to write to and its letter."""
    names = {letter: [k for k in p.named(*sizes(p, letter)) if k not in GIVEN] for letter in "FRCS"}
    letter = pick(draw, *[letter for letter in "FFFRCS" if names[letter]])
    return latest(draw, names[letter]), letter


def slot(draw: Any, p: Drawn, name: str, letter: str, loop: bool) -> tuple[str, str, str]:
    """A place in ``name``: source, the letter of what fits, and an index to cut that to size with."""
    at = position(draw, p, loop)
    rows, columns = f"[{at['b']}, 0]", f"[{at['t']}, 0]"
    free = {
        "F": [
            ("[:, {t}]", "C", ""),
            ("[{b}]", "R", ""),
            ("[{b}, {t}]", "S", ""),
            ("[1:]", "F", "[1:]"),
            ("[..., :-1]", "F", "[..., :-1]"),
            ("[:, ::2]", "F", "[:, ::2]"),
            ("[x > 0]", "S", ""),
            ("[x > 0]", "F", "[x > 0]"),
            (f"[torch.tensor({rows})]", "F", f"[torch.tensor({rows})]"),
            (f"[:, {columns}]", "F", f"[:, {columns}]"),
            ("[torch.arange(B), torch.arange(B) % T]", "C", ""),
            ("[torch.tensor([True] + [False] * (B - 1))]", "R", ""),
            ("[:]", "F", ""),
            ("[:, {t}:]", "S", ""),
            ("[...]", "R", ""),
            (".t()[{t}]", "C", ""),
            (".view(-1)[::2]", "S", ""),
            (".diagonal()[:]", "S", ""),
        ],
        "R": [
            ("[{t}]", "S", ""),
            ("[1:]", "R", "[:-1]"),
            ("[w > 0]", "S", ""),
            (f"[{columns}]", "R", f"[{columns}]"),
            ("[:]", "R", ""),
        ],
        "C": [("[{b}]", "S", ""), ("[::2]", "C", "[::2]"), ("[:]", "C", "")],
        "S": [("[()]", "S", "")],
    }
    place, fits, cut = pick(draw, *free[letter])
    return name + place.format(**at), fits, cut.format(**at)


def assigned(draw: Any, p: Drawn, loop: bool = False) -> str:
    """``out[:, t] = ...``, ``out[mask] += ...``, ``out *= ...``"""
    name, letter = target(draw, p)
    place, fits, cut = slot(draw, p, name, letter, loop) if draw(st.integers(0, 3)) else (name, letter, "")
    value = expression(draw, p, fits, loop=loop) + cut
    signs = ["+=", "*=", "-=", *(["=", "=", "="] if place != name else [])]
    return f"{place} {pick(draw, *signs)} {value}"


IN_PLACE = ["add_({0})", "mul_({0})", "sub_({0}, alpha=2)", "copy_({0})", "lerp_({0}, 0.3)", "addcmul_({0}, {0})"]
IN_PLACE += [
    "addcdiv_({0}, 1 + {0}.square())",
    "div_(1 + {0}.square())",
    "masked_fill_({0} > 0, 0.5)",
    "atan2_({0} + 3)",
]
ALONE = ["zero_()", "fill_(0.5)", "tanh_()", "sigmoid_()", "clamp_(-1, 1)", "neg_()", "sin_()", "relu_()", "abs_()"]
ALONE += ["square_()", "clamp_(min=0)", "mul_(2)", "pow_(2)", "cumsum_(-1)", "masked_fill_(x > 0, 0.0)", "add_(1)"]
ALONE += ["uniform_()", "normal_()", "bernoulli_(0.5)", "fill_(w.sum())", "unsqueeze_(0)", "t_()", "exponential_()"]
ALONE += [
    "requires_grad_()",
    "zero_().add_(w[0])",
    "tril_()",
    "fill_diagonal_(0.5)",
    "detach()",
    "exp_()",
    "reciprocal_()",
]


def method(draw: Any, p: Drawn, loop: bool = False) -> str:
    """``out[0].add_(...)``, ``view.tanh_()``"""
    name, letter = target(draw, p)
    if draw(st.booleans()):
        return f"{pick(draw, *p.tensors())}.{pick(draw, *ALONE)}"
    place, fits, cut = slot(draw, p, name, letter, loop) if draw(st.booleans()) else (name, letter, "")
    value = expression(draw, p, fits, depth=1, loop=loop) + cut
    return f"{place}.{pick(draw, *IN_PLACE).format(f'({value})')}"


INDEXED = ["index_add_(0, {b}, {F})", "index_add_(1, {t}, {F}, alpha=0.5)", "index_copy_(0, {own}, {F})"]
INDEXED += [
    "index_fill_(0, torch.tensor([0]), 0.5)",
    "index_fill_(1, torch.tensor([-1]), {S})",
    "scatter_add_(1, {wide}, {F})",
]
INDEXED += ["scatter_(1, {wide}[:, :1], {F})", "scatter_(1, {wide}, 0.5)", "masked_scatter_(x > 0, {F})"]
INDEXED += [
    "index_put_(({b},), {F}, accumulate=True)",
    "index_put_((torch.tensor([0]),), {R})",
    "masked_fill_(x > 0, {S})",
]
INDEXED += ["scatter_reduce_(1, {wide}, {F}, 'sum')", "scatter_reduce_(1, {wide}, {F}, 'mean', include_self=False)"]
INDEXED += [
    "scatter_reduce_(1, {wide}, {F}, 'amax')",
    "index_reduce_(0, {b}, {F}, 'mean')",
    "addmm_({F}, W)",
    "addr_({C}, {R})",
]
INDEXED += [
    "put_(torch.tensor([0, 1]), w[:2])",
    "put_(torch.tensor([0, 0]), w[:2], accumulate=True)",
    "addcmul_({F}, {R})",
]


def indexed(draw: Any, p: Drawn, loop: bool = False) -> str:
    """``out.index_add_(0, index, ...)`` and its kin; indices repeat."""
    names = [k for k in p.named(p.B, p.T) if k not in GIVEN] or ["(x * 1)"]
    form = pick(draw, *INDEXED)
    values = {k: expression(draw, p, k, depth=1, loop=loop) for k in "FRCS" if f"{{{k}}}" in form}
    indices = {
        "b": f"torch.tensor({[draw(st.integers(0, p.B - 1)) for _ in range(p.B)]})" if "{b}" in form else "",
        "t": f"torch.tensor({[draw(st.integers(0, p.T - 1)) for _ in range(p.T)]})" if "{t}" in form else "",
        "own": "torch.arange(B).flip(0)",
        "wide": "((torch.arange(T) * 2 + 1) % T).expand(B, T)",
    }
    return f"{latest(draw, names)}.{form.format(**values, **indices)}"

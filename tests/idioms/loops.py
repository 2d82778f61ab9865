"""Lines that loop, gather in lists and caches, and look at tensors through views."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from idioms.drawn import Drawn
from idioms.expressions import expression, latest, pick
from idioms.writes import assigned, fresh, indexed, method

# -- loops ---------------------------------------------------------------------------------------------------------


def loop(draw: Any, p: Drawn) -> None:
    """``for t in range(T):`` over one or two writes."""
    body = [
        pick(draw, assigned, assigned, assigned, method, indexed)(draw, p, True) for _ in range(draw(st.integers(1, 2)))
    ]
    p.attempt("for t in range(T):\n" + p.body(body))


def accumulator(draw: Any, p: Drawn) -> None:
    """``loss = torch.zeros(()); for t in range(T): loss += ...``"""
    letter = pick(draw, "S", "S", "C", "R", "F")
    name, value = p.new(), expression(draw, p, letter, loop=True)
    sign = pick(draw, f"{name} += {value}", f"{name} = {name} + {value}", f"{name}.add_({value})", f"{name} *= {value}")
    p.attempt(f"{name} = {fresh(draw, p, letter)}", f"for t in range(T):\n    {sign}")


def recurrence(draw: Any, p: Drawn) -> None:
    """A hidden state and a list of what it was, or a cache that is written and read."""
    name, state, kept = p.new(), "h", "hs"
    step = pick(
        draw, "torch.tanh({x} + {h} * w[0])", "{h} + {x}", "0.5 * {h} + torch.sin({x})", "torch.maximum({h}, {x})"
    )
    start = pick(draw, "torch.zeros(B)", "x.new_zeros(B)", "x[:, 0]", "torch.zeros_like(x[:, 0])")
    now = f"{state} = {step.format(x='x[:, t]', h=state)}"
    tail = pick(
        draw,
        "torch.stack(hs, 1)",
        "torch.cat([h.unsqueeze(1) for h in hs], 1)",
        "torch.stack(hs).t()",
        "sum(hs).expand(T, B).t()",
    )
    cached = [
        f"{name} = torch.zeros(B, T)",
        f"for t in range(T):\n    {name}[:, t] = x[:, t] * w[t] + {name}[:, : t + 1].sum(1)",
    ]
    listed = [
        f"{state} = {start}",
        f"{kept} = []",
        f"for t in range(T):\n    {now}\n    {kept}.append({state})",
        f"{name} = {tail}",
    ]
    p.attempt(*pick(draw, listed, cached))


# -- views ---------------------------------------------------------------------------------------------------------

VIEWS = [
    "{}[0]",
    "{}[:, 0]",
    "{}.t()",
    "{}.view(-1)",
    "{}.flatten()",
    "{}.unsqueeze(0)",
    "{}.diagonal()",
    "{}.narrow(1, 0, 1)",
]
VIEWS += [
    "{}.chunk(2, 1)[0]",
    "{}.unbind(0)[-1]",
    "{}.split(1, 0)[0]",
    "{}[..., 1:]",
    "{}.T[0]",
    "{}.detach()",
    "{}.data",
    "{}[:]",
]
VIEWS += [
    "{}.movedim(0, 1)",
    "{}.view(B, 1, T)",
    "{}.select(0, -1)",
    "{}.as_strided((T,), (1,))",
    "{}.view_as({})",
    "{}[None, :, None]",
]
VIEWS += [
    "{}.unflatten(1, (1, T))",
    "{}.unfold(1, 1, 1)",
    "{}.expand(2, B, T)",
    "{}.expand(B, T)",
    "{}.reshape(T, B)",
    "{}.squeeze()",
]
VIEWS += [
    "{}.permute(1, 0)",
    "{}.swapaxes(0, 1)",
    "{}.view(T, B)",
    "{}.tensor_split(2)[0]",
    "{}.mT",
    "{}.adjoint()",
    "{}.real",
]


def view(draw: Any, p: Drawn) -> None:
    """A second name for a part of a tensor, and views of views."""
    names = p.tensors()
    name = latest(draw, names)
    p.attempt(f"{p.new()} = {pick(draw, *VIEWS).format(name, name)}")


def parts(draw: Any, p: Drawn) -> None:
    """Several views at once, written to in turn."""
    name, first, last = pick(draw, *p.named(p.B, p.T)), p.new(), p.new() + "b"
    how = pick(
        draw, "unbind(0)", "chunk(2, 1)", "split(1, 1)", "unbind(1)", "tensor_split(2, 1)", "split([1, T - 1], 1)"
    )
    base = pick(draw, name, f"({name} * 1)", f"{name}.clone()")
    write = pick(
        draw,
        "{a}.mul_({b}.mean())",
        "{b}.add_({a}.sum())",
        "{a}.copy_({b}.sum())",
        "{a}.zero_()",
        "{a} += 1",
        "{b}[0] = w[0]",
    )
    p.attempt(f"{first}, *_, {last} = {base}.{how}", write.format(a=first, b=last))

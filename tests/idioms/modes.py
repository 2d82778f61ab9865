"""Lines under other modes, lines that update buffers, derivatives inside, and numbers of other types."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from idioms.drawn import Drawn
from idioms.expressions import expression, pick, sizes
from idioms.writes import assigned, method


def mode(draw: Any, p: Drawn) -> None:
    """Some lines under ``no_grad``, ``enable_grad`` or ``set_grad_enabled``."""
    name = p.new()
    inner = [
        f"{name} = {expression(draw, p, pick(draw, 'F', 'R', 'S'))}",
        assigned(draw, p),
        method(draw, p),
        _written_out(draw, p),
    ]
    body = [pick(draw, *inner) for _ in range(draw(st.integers(1, 2)))]
    if draw(st.integers(0, 3)) == 3:
        body += ["with torch.enable_grad():\n" + p.body([assigned(draw, p)])]
    if draw(st.integers(0, 3)) == 3:
        p.attempt("torch.set_grad_enabled(False)", *body, "torch.set_grad_enabled(True)")
    else:
        under = pick(draw, "torch.no_grad()", "torch.set_grad_enabled(False)", "torch.enable_grad()")
        p.attempt(f"with {under}:\n{p.body(body)}")


def _written_out(draw: Any, p: Drawn) -> str:
    operands = expression(draw, p, "F", depth=1), expression(draw, p, "F", depth=1)
    call = pick(draw, "torch.mul({}, {}, out={})", "torch.add({}, {}, out={})", "torch.maximum({}, {}, out={})")
    return call.format(*operands, pick(draw, *p.named(p.B, p.T)))


def buffer(draw: Any, p: Drawn) -> None:
    """State that the forward updates; later lines read it."""
    row = f"{expression(draw, p, 'R', depth=1)}.detach()"
    forms = [
        "s.mul_(0.9).add_({}, alpha=0.1)",
        "s.copy_({})",
        "n += 1",
        "s[0] = {}[0]",
        "s[1:] += {}[1:]",
        "s.lerp_({}, 0.1)",
    ]
    forms += [
        "with torch.no_grad():\n    s.add_({})",
        "n.add_(2)",
        "n.fill_(3)",
        "s.data.mul_(0.5)",
        "s.add_(1).clamp_(0, 1)",
    ]
    p.attempt(pick(draw, *forms).format(row))
    p.attempt(f"{p.new()} = {pick(draw, 's * w', 's / n', 'x * s', '(s * 1).mul_(w)', 'w / n')}")


def gradient(draw: Any, p: Drawn) -> None:
    """A derivative inside the program."""
    name, letter = p.new(), pick(draw, "F", "R")
    at = pick(draw, *p.named(*sizes(p, letter)))
    value = f"({expression(draw, p, letter)}).sum()"
    inside = f"torch.autograd.grad({value}, {at}, create_graph=True)[0]"
    form = pick(
        draw,
        "z.sin().sum()",
        "(z.tanh() * w).sum()",
        "(z ** 3).mean()",
        "z.softmax(-1)[..., 0].sum()",
        "(z * 1).exp_().sum()",
    )
    nested = f"grad(lambda z: {form})({at})"
    p.attempt(f"{name} = {pick(draw, inside, nested)}")


def mixed_precision(draw: Any, p: Drawn) -> None:
    """Integer arithmetic and casts on the way."""
    forms = [
        "{F}.float().sin().double()",
        "{F}[:, (torch.arange(T) * 3 + 1) % T]",
        "({F} > 0).double() * w",
        "{F} * torch.arange(T)",
    ]
    forms += [
        "{F}[:, torch.arange(T - 1, -1, -1)]",
        "{F} * (torch.arange(B)[:, None] >= torch.arange(T))",
        "torch.complex({F}, {F}).abs()",
    ]
    forms += [
        "F.one_hot(torch.arange(B) % T, T) * w",
        "{F} + {F}.round().detach() - {F}.detach()",
        "{F} * {F}.argmax(1, keepdim=True)",
    ]
    forms += [
        "W[torch.arange(B) % T]",
        "F.embedding(torch.arange(B) % T, W)",
        "torch.view_as_real(torch.complex({F}, {F})).sum(-1)",
    ]
    p.attempt(f"{p.new()} = {pick(draw, *forms).format(F=expression(draw, p, 'F', depth=1))}")

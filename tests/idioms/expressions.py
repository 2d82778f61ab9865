"""Expressions of a wanted shape, drawn from the names a program has so far.

Shapes have letters: F is a frame [B, T], R a row [T], C a column [B], S a number [].
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from idioms.drawn import Drawn

POINTWISE = ["{}.sin()", "{}.tanh()", "torch.sigmoid({})", "{}.cos()", "F.relu({})", "F.softplus({})", "{} ** 2"]
POINTWISE += ["torch.exp(-{}.abs())", "{}.square()", "F.gelu({})", "-{}", "{}.clamp(-1, 1)", "0.5 * {}", "1 - {}"]
POINTWISE += ["{}.clone()", "{}.contiguous()", "F.dropout({}, 0.5)", "{}.detach()", "{}.data", "{}.float().double()"]
POINTWISE += [
    "{}.reciprocal().clamp(-3, 3)",
    "{} + torch.rand_like({})",
    "{} * torch.randn(()) + 1",
    "{}.type(torch.float64)",
]
POINTWISE += ["torch.where({0} > 0, {0}, 0.1 * {0})", "{0}.masked_fill({0} > 0.5, 0.25)", "{0} * ({0} > 0)", "{0} / 3"]
ALONG = [
    "{}.softmax(-1)",
    "{}.log_softmax(-1)",
    "{}.cumsum(-1)",
    "{}.flip(-1)",
    "{}.roll(1, -1)",
    "F.normalize({}, dim=-1)",
]
ALONG += ["{}.sort(-1).values", "torch.cat([{0}[..., 1:], {0}[..., :1]], -1)", "{0} - {0}.mean(-1, keepdim=True)"]
BINARY = ["{} + {}", "{} * {}", "{} - {}", "{} / (1 + {}.square())", "torch.maximum({}, {})", "torch.lerp({}, {}, 0.3)"]
BINARY += ["torch.where({0} > {1}, {0}, {1})", "torch.addcmul({0}, {0}, {1})", "torch.hypot({} + 2, {})"]

# how a shape is made from another one
MADE = {
    "F": [
        ("F", "{} @ W"),
        ("F", "F.linear({}, W, w)"),
        ("F", "F.layer_norm({}, (T,), w)"),
        ("F", "{}[[{b}, 0] + list(range(2, B))]"),
        ("F", "torch.tril({})"),
        ("R", "{}.expand(B, T)"),
        ("R", "{}.repeat(B, 1)"),
        ("R", "torch.stack([{}] * B)"),
        ("C", "torch.outer({}, w)"),
        ("C", "{}.unsqueeze(1) * x"),
        ("C", "torch.einsum('b,bt->bt', {}, x)"),
        ("F", "torch.stack({}.unbind(1), 1)"),
        ("F", "torch.cat({}.split(1, 1)[::-1], 1)"),
        ("F", "torch.cat({}.chunk(2, 0), 0)"),
    ],
    "R": [
        ("F", "{}.mean(0)"),
        ("F", "{}[{b}]"),
        ("F", "{}.sum(0)"),
        ("C", "torch.einsum('bt,b->t', x, {})"),
        ("R", "W @ {}"),
        ("F", "{}.amax(0)"),
        ("R", "torch.stack([{}[t] * t for t in range(T)])"),
    ],
    "C": [
        ("F", "{}[:, {t}]"),
        ("F", "{}.select(1, {t})"),
        ("F", "{}.logsumexp(1)"),
        ("F", "{} @ w"),
        ("F", "{}.norm(dim=1)"),
        ("F", "{}[torch.arange(B), torch.arange(B) % T]"),
        ("F", "{}.max(1).values"),
        ("F", "{}.gather(1, (torch.arange(B) % T)[:, None]).squeeze(1)"),
    ],
    "S": [
        ("F", "{}.sum()"),
        ("R", "{}[{t}]"),
        ("C", "{}[{b}]"),
        ("F", "{}.mean()"),
        ("R", "torch.dot({}, w)"),
        ("F", "{}[{b}, {t}]"),
    ],
}


def pick(draw: Any, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def latest(draw: Any, names: list[str]) -> str:
    """One of ``names``; the simplest example uses what was made last."""
    return names[-1 - draw(st.integers(0, len(names) - 1))]


def sizes(p: Drawn, letter: str) -> tuple[int, ...]:
    return {"F": (p.B, p.T), "R": (p.T,), "C": (p.B,), "S": ()}[letter]


def position(draw: Any, p: Drawn, loop: bool) -> dict[str, str]:
    """Indices along B and T; inside a loop over ``t`` also the loop's."""
    t = [str(draw(st.integers(-p.T, p.T - 1))), *(["t", "t", "t - 1", "(t + 1) % T"] if loop else [])]
    return {"b": str(draw(st.integers(-p.B, p.B - 1))), "t": pick(draw, *t)}


def expression(draw: Any, p: Drawn, letter: str, depth: int = 2, loop: bool = False) -> str:
    """Source of an expression of this shape; ``loop``: it stands inside ``for t in range(T)``."""
    names = p.named(*sizes(p, letter))
    kind = pick(draw, "name", "pointwise", "pointwise", "binary", "along", "made") if depth else "name"
    if kind == "name" and names:
        return latest(draw, names)
    again = {"depth": max(depth - 1, 0), "loop": loop}
    if kind == "binary":
        other = pick(draw, letter, letter, "S", "R" if letter == "F" else letter)
        operands = [expression(draw, p, letter, **again), expression(draw, p, other, **again)]
        return f"({pick(draw, *BINARY).format(*operands)})"
    if kind == "pointwise" or (kind == "along" and letter == "S"):
        inner = expression(draw, p, letter, **again)
        return _wrapped(pick(draw, *POINTWISE), inner)
    if kind == "along":
        return _wrapped(pick(draw, *ALONG), expression(draw, p, letter, **again))
    source, form = pick(draw, *MADE[letter])
    return _wrapped(form, expression(draw, p, source, **again), **position(draw, p, loop))


def _wrapped(form: str, inner: str, **more: str) -> str:
    if not inner.isidentifier():
        inner = f"({inner})"
    return f"({form.format(*[inner] * 3, **more)})"

"""The families of lines, and the strategy that draws programs of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from idioms.drawn import GIVEN, Drawn
from idioms.expressions import pick
from idioms.further import complex_numbers, functions, operators, state, turned, under_turn, values
from idioms.loops import accumulator, loop, parts, recurrence, view
from idioms.modes import buffer, gradient, mixed_precision, mode
from idioms.writes import assignment, empty_then_filled, factory, write

FAMILIES = {
    f.__name__: f
    for f in [
        factory,
        empty_then_filled,
        assignment,
        write,
        loop,
        accumulator,
        recurrence,
        view,
        parts,
        mode,
        buffer,
        gradient,
        mixed_precision,
    ]
}
FURTHER = FAMILIES | {f.__name__: f for f in [turned, complex_numbers, operators, values, functions, state, under_turn]}


@st.composite
def programs(draw: Any, most: int = 7, families: Mapping[str, Any] = FAMILIES) -> Drawn:
    """Up to ``most`` families, one after the other, then a loss of what they made."""
    p = Drawn(draw(st.integers(2, 3)), draw(st.integers(2, 4)), draw(st.integers(0, 9)))
    p.attempt("y0 = x * w")
    for _ in range(draw(st.integers(1, most))):
        pick(draw, factory, *families.values(), write, write, view)(draw, p)
    names = [k for k in p.tensors() if k not in GIVEN]
    forms = [
        "({0} ** 2).sum()",
        "({0} * {0}.cos()).sum()",
        "{0}.mean()",
        "{0}.tanh().sum()",
        "({0}.flatten() * torch.arange({0}.numel())).sum()",
    ]
    chosen = draw(st.lists(st.sampled_from(names[::-1]), min_size=1, max_size=3, unique=True))
    p.conclude(" + ".join(pick(draw, *forms).format(k) for k in chosen))
    return p

"""An explanation as text for a terminal of 100 columns."""

from __future__ import annotations

import math
import textwrap

import torch

from memograd.explain.explanation import Explanation, Gradient

WIDTH = 100


def render(e: Explanation) -> str:
    """All sections."""
    sections = [
        ("The forward graph, with values", _graph(e)),
        ("Local derivatives: the table's formula, and its numbers here", _derivatives(e)),
        ("The recursion: adjoint(v) = Σ over the consumers u of v of vjp(u)", _visits(e)),
        ("Each gradient as the product of the local derivatives on its way", _products(e)),
        ("What remembering saves", _savings(e)),
        ("Three witnesses", _witnesses(e)),
    ]
    lines = [e.title]
    for number, (title, body) in enumerate(sections, 1):
        heading = f"── {number}. {title} "
        lines += ["", heading + "─" * (WIDTH - len(heading)), "", *body]
    return "\n".join(lines)


def _graph(e: Explanation) -> list[str]:
    rows = [(node, name, _value(value)) for node, name, value in e.inputs]
    rows += [(node, f"{_short(op)}({', '.join(args)})", _value(value)) for node, op, args, value in e.operators]
    return _columns(rows, "= ")


def _derivatives(e: Explanation) -> list[str]:
    lines: list[str] = []
    last = ""
    for edge in e.edges:
        if edge.node != last:
            lines += [""] if lines else []
            lines += _wrap(f"{edge.node}:  {edge.formula}", f"   ({edge.file})")
            last = edge.node
        rows = ["[" + "  ".join(_number(x) for x in row) + "]" for row in edge.numbers]
        head = f"    ∂{edge.node}/∂{edge.operand} = "
        lines += [head + rows[0], *(" " * len(head) + row for row in rows[1:])]
    return [*lines, "", "A row for each number of the result, a column for each number of the operand."]


def _visits(e: Explanation) -> list[str]:
    lines = []
    for event in e.events:
        indent = "  " * event.depth
        if event.kind == "ask":
            lines.append(f"{indent}{event.what} ?")
        elif event.kind == "hit":
            lines.append(
                f"{indent}{event.what}  ● in the table" + (f": {_value(event.value)}" if _is(event.value) else "")
            )
        else:
            lines.append(f"{indent}{event.what} = {_value(event.value)}")
    hits = sum(event.kind == "hit" for event in e.events)
    return [*lines, "", f"? is a question, = its answer, ● an answer that was remembered: {hits} table hits."]


def _products(e: Explanation) -> list[str]:
    lines: list[str] = []
    for gradient in e.gradients:
        lines += [""] if lines else []
        lines += _one_gradient(gradient)
    return [*lines, "", "Factors that only turn a matrix over (t) are 1 and left out."]


def _one_gradient(g: Gradient) -> list[str]:
    words, numbers = [], []
    for product in g.products:
        factors = [f for f in product if not f[0].startswith(("t[", "t_"))]
        words.append(" · ".join(f"∂{of}/∂{by}" for of, by, _ in factors))
        numbers.append(" · ".join(_factor(x) for _, _, x in factors))
    total = sum(math.prod(x for _, _, x in product) for product in g.products)
    head = f"∂loss/∂{g.name}"
    return [
        head,
        *textwrap.wrap(f"= {'  +  '.join(words)}", WIDTH, initial_indent="    ", subsequent_indent="        "),
        *textwrap.wrap(f"= {'  +  '.join(numbers)}", WIDTH, initial_indent="    ", subsequent_indent="        "),
        f"    = {_number(total).strip()}",
    ]


def _savings(e: Explanation) -> list[str]:
    naive, memoized = e.products.naive, e.products.memoized
    return [
        f"naive      {naive:>6} products: each adjoint computed again for everyone who asks",
        f"memoized   {memoized:>6} products: each edge of the graph once",
        "",
        "Here that is a small saving. In a graph with branches the naive number doubles with every branch.",
    ]


def _witnesses(e: Explanation) -> list[str]:
    width = max(len(g.name) for g in e.gradients)
    lines = [f"{'':{width}}  {'memograd':>20}  {'torch.autograd':>20}  {'central differences':>20}"]
    for g in e.gradients:
        lines.append(f"{g.name:{width}}  {g.ours:>20.14f}  {g.autograd:>20.14f}  {g.differences:>20.14f}")
    to_autograd = max(abs(g.ours - g.autograd) for g in e.gradients)
    to_differences = max(abs(g.ours - g.differences) for g in e.gradients)
    return [*lines, "", f"largest distance: {to_autograd:.1e} to autograd, {to_differences:.1e} to the differences"]


# -- pieces ----------------------------------------------------------------------------------------------------------


def _columns(rows: list[tuple[str, str, str]], sign: str) -> list[str]:
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return [f"{a:{first}}  {b:{second}}  {sign}{c}" for a, b, c in rows]


def _wrap(text: str, tail: str) -> list[str]:
    if len(text) + len(tail) <= WIDTH:
        return [text + tail]
    return textwrap.wrap(text + tail, WIDTH, subsequent_indent="    ")


def _is(value: torch.Tensor | None) -> bool:
    return value is not None


def _value(value: torch.Tensor | None) -> str:
    if value is None:
        return ""
    return _nested(value.tolist())


def _nested(value: float | list) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(v) for v in value) + "]"
    return _number(value).strip()


def _number(x: float) -> str:
    """Four digits behind the point; small numbers as powers of ten."""
    if x == int(x):
        return f"{int(x):>7}"
    return f"{x:>7.4f}" if abs(x) >= 0.001 else f"{x:>7.1e}"


def _factor(x: float) -> str:
    text = _number(x).strip()
    return f"({text})" if x < 0 else text


def _short(operator: str) -> str:
    return operator.removeprefix("aten.").removesuffix(".default")

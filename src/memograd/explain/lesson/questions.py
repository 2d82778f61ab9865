"""Sections 4 and 5: the recursion on one sample of XOR, question by question, and the program that it leaves behind."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from torch import nn

from memograd.adjoint.recursion import Recursion
from memograd.explain.data import collect, subject
from memograd.explain.explain import explain_xor
from memograd.explain.lesson.numbers import numbers
from memograd.explain.lesson.slopes import SEED, network
from memograd.explain.numbers import summary, visit
from memograd.graph.printing import expression
from memograd.pipeline import capture, differentiate
from memograd.recipes import data

SAMPLE = 1  # 0 xor 1
_PAGE = ("title", "summary", "nodes", "loss", "wrt", "order", "events", "naive", "update")


def asked() -> dict[str, Any]:
    """What the page of ``mg.explain`` knows of this sample, without what the lesson does not show."""
    model, batch = network(), _batch()
    page = collect(subject(model, batch, {}, nn.BCELoss()))[0]
    return {key: page[key] for key in _PAGE} | {"summary": {**page["summary"], "seconds": 0}}


def program() -> dict[str, Any]:
    """The graph of forward and backward as lines with their numbers, the recursion's own lines, and three witnesses."""
    model, batch = network(), _batch()
    criterion = nn.BCELoss()
    joint = differentiate(capture(lambda x, y: criterion(model(x), y), *batch))
    lines: list[dict[str, Any]] = []

    def see(node: Any, value: Any) -> None:
        if node.op != "placeholder":
            lines.append(
                {
                    "name": node.name,
                    "text": f"{node.name} = {expression(node)}".replace("model_", ""),
                    "of": node.meta.get("adjoint_of", "").replace("model_", ""),
                    "module": (node.meta.get("module") or "").removeprefix("model").removeprefix("."),
                    "value": summary(value),
                }
            )

    visit(joint, [t.detach() for t in joint.bind(batch, {})], see)
    recursion = "\n".join(inspect.getsource(f) for f in (Recursion.adjoint, Recursion.vjp))
    return {"lines": lines, "recursion": textwrap.dedent(recursion).rstrip(), "witnesses": _witnesses()}


def _witnesses() -> list[dict[str, Any]]:
    """Each of the nine gradients three times, and as the sum of its products along paths."""
    return [
        {
            "name": g.name,
            "ours": g.ours,
            "autograd": g.autograd,
            "differences": g.differences,
            "products": [[[u, v, *numbers([f])] for u, v, f in product] for product in g.products],
        }
        for g in explain_xor(SAMPLE, SEED).gradients
    ]


def _batch() -> tuple[Any, ...]:
    xs, ys = data.xor(network().fc1.weight.dtype)
    return xs[SAMPLE : SAMPLE + 1], ys[SAMPLE : SAMPLE + 1]

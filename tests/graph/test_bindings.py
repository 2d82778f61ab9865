"""What a printed operator calls: PyTorch's own function where, and only where, it is the same operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memograd.graph.bindings import callable_of, form_of
from memograd.graph.graph import Graph
from memograd.graph.printing import expression
from memograd.pipeline import capture, differentiate

X = torch.linspace(-1.0, 2.0, 24).reshape(4, 6)

# program, operator, and the text that must run it
PROGRAMS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "function": (lambda x: x.sigmoid(), "sigmoid.default", "torch.sigmoid(x)"),
    "function of two": (lambda x: x * x, "mul.Tensor", "torch.mul(x, x)"),
    "keywords": (lambda x: torch.add(x, x, alpha=3), "add.Tensor", "torch.add(x, x, alpha=3)"),
    "a list": (lambda x: x.sum([0], True), "sum.dim_IntList", "torch.sum(x, [0], True)"),
    "method": (lambda x: x.view(6, 4).sin(), "view.default", "x.reshape([6, 4])"),
    "no function of that name": (
        lambda x: torch.nn.functional.softplus(x),
        "softplus.default",
        "aten.softplus.default(x",
    ),
    "another overload": (lambda x: torch.ops.aten.div.Scalar(x, 2), "div.Scalar", "aten.div.Scalar(x, 2)"),
    "draws": (lambda x: torch.ops.aten.rand_like.default(x), "rand_like.default", "aten.rand_like.default(x"),
}


def of(graph: Graph, name: str) -> Any:
    return next(n for n in graph.nodes if str(n.target) == f"aten.{name}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_text_calls_the_function_that_is_the_operator(name: str) -> None:
    program, operator, text = PROGRAMS[name]
    node = of(capture(program, X), operator)
    assert expression(node).startswith(text)


def test_every_binding_of_a_step_computes_what_its_operator_does() -> None:
    """Bits, strides and storages: a binding is the same kernel, not a similar one."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 6), torch.nn.LayerNorm(6)
    )
    image, target = torch.randn(5, 2, 6, 6), torch.randint(0, 6, (5,))
    joint = differentiate(capture(lambda x, y: torch.nn.functional.cross_entropy(model(x), y), image, target))
    values: dict[Any, Any] = dict(zip(joint.placeholders, joint.bind((image, target), {}), strict=True))
    bound = 0
    for node in joint.nodes:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)
            if form_of(node) is None:
                continue
            out = callable_of(node)(*args, **kwargs)
        bound += 1
        pairs = zip(*((t if isinstance(t, (tuple, list)) else [t]) for t in (out, values[node])), strict=True)
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs), node.format_node()
    assert bound > 10

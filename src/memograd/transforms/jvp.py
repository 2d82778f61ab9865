"""``jvp``: tangents pushed forward, t -> J t, and ``hvp``: the jvp of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.graph import Graph, run
from memograd.pipeline import differentiate
from memograd.transforms.grad import grad
from memograd.transforms.transform import Transform


class _Jvp(Transform):
    """J t as the vjp of the vjp: u -> Jᵀu is linear, and the adjoint of a linear map is its transpose."""

    def build(self, args: tuple[Any, ...], concrete: bool) -> Graph:
        graph, names = self.capture(args, {}, concrete)
        pulled = differentiate(graph, names, cotangents="output")
        ways = [i.name for i in pulled.inputs if i.kind == "cotangent"]
        return differentiate(pulled, ways, cotangents="gradient")

    def __call__(self, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        graph = self.cache.get(primals, {}, lambda concrete: self.build(primals, concrete))
        names = self.selected(graph, primals)
        by_name = dict(zip(names, pytree.tree_leaves(tangents), strict=True))
        extra = []
        for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
            if entry.kind == "cotangent":
                value = node.meta["val"]
                dummy = torch.zeros(value.shape, dtype=value.dtype, device=value.device)
                extra.append(by_name.get(entry.of, dummy).contiguous())
        flat = graph.bind(primals, {}, extra)
        results = run(graph.function, flat)
        graph.write_back(results, flat)
        values = [results[i] for i in graph.positions("output")]
        of = {i.name: i.of for i in graph.inputs}
        pushed = {of[graph.outputs[i].name]: results[i] for i in graph.positions("gradient")}
        names_out = [graph.outputs[i].name for i in graph.positions("output")]
        tangents_out = [
            pushed[n] if n in pushed else torch.zeros_like(v) for n, v in zip(names_out, values, strict=True)
        ]
        return graph.output_tree(values), graph.output_tree(tangents_out)


def jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """``(outputs, J · tangents)``: the directional derivative of ``f`` at ``primals``.

    There is no second table of forward rules: it is the vjp of the vjp (Christianson; J. Townsend 2017).

    Raises:
        GraphError: primals and tangents do not match.
    """
    primals, tangents = _as_tuple(primals, "primals"), _as_tuple(tangents, "tangents")
    if pytree.tree_structure(primals) != pytree.tree_structure(tangents):
        raise GraphError("primals and tangents must be nested alike")
    for p, t in zip(pytree.tree_leaves(primals), pytree.tree_leaves(tangents), strict=True):
        if p.shape != t.shape or p.dtype != t.dtype:
            raise GraphError(
                f"a tangent of shape {tuple(t.shape)}, {t.dtype} for a primal of {tuple(p.shape)}, {p.dtype}"
            )
    return _Jvp(f, tuple(range(len(primals))))(primals, tangents)


def hvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """Hessian-vector product of the scalar ``f``: the jvp of its gradient. Nested like ``primals``.

    Args:
        primals, tangents: a tuple of arguments (or one tensor) and a direction for each.
    """
    single = isinstance(primals, torch.Tensor)
    points = (primals,) if single else tuple(primals)
    ways = (tangents,) if isinstance(tangents, torch.Tensor) else tuple(tangents)
    product = jvp(grad(f, argnums=tuple(range(len(points)))), points, ways)[1]
    return product[0] if single else product


def _as_tuple(value: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise GraphError(f"{what} must be a tuple with one entry for each argument, got {type(value).__name__}")
    return tuple(value)

"""``jvp``: tangents pushed forward, t -> J t; ``linearize``: the same map for many tangents; ``hvp``.

There is no second table of forward rules: u -> Jᵀu is linear, and the adjoint of a linear map is its transpose, so
that the vjp of the vjp is the jvp (Christianson; J. Townsend 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.entries import Output
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.pipeline import differentiate, simplify
from memograd.tracing.reuse import Cache
from memograd.tracing.undisturbed import ordinary_tensors
from memograd.tracing.unusual import refuse_unusual
from memograd.transforms.grad import grad
from memograd.transforms.plain import Plain
from memograd.transforms.program import Program
from memograd.transforms.surroundings import untraced
from memograd.transforms.transform import Transform, kept_for
from memograd.transforms.vjp import LinearMap, transform_of

aten = torch.ops.aten
_FORWARD = {ops.no_grad: ops.only_forward, ops.written: ops.written_forward}


class Jvp(Transform):
    api = "jvp(f, primals, tangents)"
    forward_mode = True
    marks = _FORWARD

    def differentiated(self, graph: Graph, names: list[str]) -> Graph:
        graph = exchanged(graph, self.marks)  # no_grad is about reverse mode
        pulled = differentiate(graph, names, cotangents="output", among=self.main(graph))
        ways = [i.name for i in pulled.inputs if i.kind == "cotangent"]
        pushed = differentiate(pulled, ways, cotangents="gradient")
        pushed = _only_tangents(pushed, len(pulled.inputs), len(pulled.outputs))
        return exchanged(pushed, {new: old for old, new in self.marks.items()})

    def at(self, args: tuple[Any, ...]) -> Pushforward:
        """The linear function at this point."""
        program = self.program(args, {})
        out, saved = program.forward(args, {})
        return Pushforward(program, saved, self.points(args), *(out if self.has_aux else (out, None)))

    def pushed(self, primals: Any, tangents: Any, strict: bool = False) -> tuple[Any, ...]:
        """What ``jvp`` returns."""
        ways = checked(primals, tangents)
        with ordinary_tensors():
            program = self.program(primals, {})
            out, pushed = program.whole(primals, {}, dict(zip(program.names, ways, strict=True)))
            out, *aux = out if self.has_aux else (out,)
            if strict and (missing := [n for n in program.main if n not in pushed]):
                raise GraphError(
                    f"jvp(f, primals, tangents, strict=True): The output {missing[0]!r} of f is independent of the "
                    "inputs. This is not allowed with strict=True."
                )
            leaves, spec = pytree.tree_flatten(out)
            return (out, pytree.tree_unflatten(tangents_of(program, pushed, leaves), spec), *aux)


class _Hvp(Jvp):
    """The product as two derivatives in reverse mode give it: ``no_grad`` stops both."""

    marks: dict[Any, Any] = {}  # noqa: RUF012


class Pushforward(LinearMap):
    """``t -> J t``."""

    @untraced
    def __call__(self, *tangents: Any) -> Any:
        """The tangents of the outputs, for tangents nested like the primals."""
        leaves, spec = pytree.tree_flatten(tangents)
        if spec != self.spec:
            raise GraphError(f"Expected the tangents {spec} to have the same argspec as the primals {self.spec}")
        for i, (t, p) in enumerate(zip(leaves, self.points, strict=True)):
            if not isinstance(t, torch.Tensor):
                raise GraphError(f"tangent:{i} must be a tensor, got {type(t).__name__}")
            for what in ("shape", "device", "dtype"):
                if getattr(t, what) != getattr(p, what):
                    raise GraphError(
                        f"tangent:{i} with {what} {getattr(t, what)} in flattened pytree doesn't match the {what} "
                        f"{getattr(p, what)} of the corresponding primal"
                    )
        with ordinary_tensors():
            return pytree.tree_unflatten(self.push(leaves), self.out_spec)

    def push(self, tangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same for flat tangents that fit."""
        pushed = self.program.linear(self.saved, dict(zip(self.program.names, tangents, strict=True)))
        return tangents_of(self.program, pushed, self.out)


def tangents_of(
    program: Program | Plain, pushed: dict[str, torch.Tensor], out: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The tangents of all results; zeros where they do not depend on the primals."""
    return [pushed[n] if n in pushed else torch.zeros_like(o) for n, o in zip(program.main, out, strict=True)]


@untraced
def jvp(
    f: Callable[..., Any],
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """``(outputs, J · tangents)``: the directional derivative of ``f`` at ``primals``.

    Args:
        strict: raise where an output does not depend on the primals, instead of returning zeros.
        has_aux: ``f`` returns a pair (outputs, aux); what comes back is ``(outputs, J · tangents, aux)``.

    Raises:
        GraphError: primals and tangents do not match.
    """
    argnums = tuple(range(len(primals))) if isinstance(primals, tuple) else ()
    return transform_of(Jvp, f, argnums, has_aux).pushed(primals, tangents, strict)


def checked(primals: Any, tangents: Any) -> list[torch.Tensor]:
    """The leaves of ``tangents``, which fit those of ``primals``."""
    where = Jvp.api
    if not isinstance(primals, tuple):
        raise GraphError(f"{where}: Expected primals to be a tuple with one entry for each argument of f")
    flat_primals, spec = pytree.tree_flatten(primals)
    flat_tangents, tangents_spec = pytree.tree_flatten(tangents)
    if spec != tangents_spec:
        raise GraphError(
            f"{where}: Expected primals and tangents to have the same python structure; the primals have {spec}, the "
            f"tangents {tangents_spec}"
        )
    for name, leaves in (("primals", flat_primals), ("tangents", flat_tangents)):
        if not leaves:
            raise GraphError(f"{where}: Expected {name} to contain at least one Tensor.")
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor):
                raise GraphError(f"{where}: Expected {name} to only contain Tensors, got {type(leaf).__name__}")
            refuse_unusual(leaf, f"{where}: one of the {name}", sparse=False)
    for p, t in zip(flat_primals, flat_tangents, strict=True):
        if p.shape != t.shape or p.is_complex() != t.is_complex():
            raise GraphError(
                f"a tangent of shape {tuple(t.shape)}, {t.dtype} for a primal of {tuple(p.shape)}, {p.dtype}"
            )
    return [t.to(p.dtype) for p, t in zip(flat_primals, flat_tangents, strict=True)]


@untraced
def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``(outputs, jvp_fn)``: the value of ``f``, and the linear function ``jvp_fn(*tangents)`` that is its derivative.

    ``f`` is computed once; what its derivative needs of that is remembered, for as many tangents as there are.

    Args:
        primals: the arguments of ``f``.

    Returns:
        outputs: ``f(*primals)``.
        jvp_fn: takes tangents nested like the primals, of their shapes and dtypes, and returns those of the outputs.

    Raises:
        GraphError: a primal cannot be differentiated; of ``jvp_fn``: tangents do not match the primals.
    """
    with ordinary_tensors():
        pushforward = transform_of(Jvp, f, tuple(range(len(primals))), False).at(primals)
    return pytree.tree_unflatten(pushforward.out, pushforward.out_spec), pushforward


def hvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """Hessian-vector product of the scalar ``f``: the jvp of its gradient. Nested like ``primals``.

    ``no_grad`` in ``f`` stops both derivatives, as in ``torch.autograd.functional.hvp``.

    Args:
        f: function of tensors that returns one scalar tensor.
        primals, tangents: a tuple of arguments (or one tensor) and a direction for each.

    Returns:
        H · tangents, a tensor of each argument's shape.

    Raises:
        GraphError: the result is no scalar, or primals and tangents do not match.
    """
    for what, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (torch.Tensor, tuple, list)):
            raise GraphError(f"hvp: {what} must be a tensor or a tuple of tensors, got {type(given).__name__}")
    single = isinstance(primals, torch.Tensor)
    points = (primals,) if single else tuple(primals)
    ways = (tangents,) if isinstance(tangents, torch.Tensor) else tuple(tangents)
    argnums = tuple(range(len(points)))
    gradient = _Hvp(grad(f, argnums), argnums)
    gradient.cache = Cache(f, kept_for(f, (hvp, argnums)))
    product = gradient.pushed(points, ways)[1]
    return product[0] if single else product


def exchanged(graph: Graph, marks: dict[Any, Any]) -> Graph:
    """``graph`` with other marks in the place of those."""

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        copied = new.copy(node)
        copied.target = marks.get(node.target, node.target)
        return copied

    return graph.rewritten(visit)


def _only_tangents(pushed: Graph, inputs: int, outputs: int) -> Graph:
    """The vjp of a vjp, without what only the inner one needed: its gradients and its cotangents, whose values do not
    matter, for it is linear in them. The first ``inputs`` and ``outputs`` are the inner one's."""
    inner = {k: entry for k, entry in enumerate(pushed.inputs[:inputs]) if entry.kind == "cotangent"}
    anything = {pushed.placeholders[k] for k in inner}

    def visit(new: Rewriting, node: fx.Node) -> fx.Node | None:
        if node not in anything:
            return new.copy(node)
        if not node.users:
            return None
        value = node.meta["val"]
        options = {"dtype": value.dtype, "device": value.device}
        zeros = new.fx.call_function(aten.zeros.default, (list(value.shape),), options)
        zeros.meta = dict(node.meta)
        return zeros

    whose = {entry.name: entry.of for entry in inner.values()}
    remaining = [k for k, entry in enumerate(pushed.outputs) if k >= outputs or entry.kind != "gradient"]
    tangents = pushed.rewritten(
        visit,
        results=[pushed.results[k] for k in remaining],
        inputs=tuple(entry for k, entry in enumerate(pushed.inputs) if k not in inner),
        outputs=tuple(
            Output("gradient", whose[entry.name]) if entry.kind == "gradient" else entry
            for entry in (pushed.outputs[k] for k in remaining)
        ),
    )
    return simplify(tangents.verify())

"""``vjp``: cotangents pulled back, u -> Jᵀu. The graph is cut where they come in: the first half runs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.pipeline import differentiate
from memograd.tracing.reuse import Cache
from memograd.tracing.undisturbed import ordinary_tensors
from memograd.transforms.plain import Plain
from memograd.transforms.program import Program
from memograd.transforms.surroundings import untraced
from memograd.transforms.transform import Argnums, Transform, kept_for, zeros_for


class Vjp(Transform):
    api = "vjp(f, *primals)"

    def differentiated(self, graph: Graph, names: list[str]) -> Graph:
        main = self.main(graph)
        for node, entry in zip(graph.results, graph.outputs, strict=True):
            dtype = node.meta["val"].dtype
            if entry.name in main and entry.kind == "output" and not (dtype.is_floating_point or dtype.is_complex):
                raise GraphError(
                    f"{self.api}: All outputs of f must be floating-point or complex Tensors, got Tensor with dtype "
                    f"{dtype}; return it as aux (has_aux=True)"
                )
        return differentiate(graph, names, cotangents="output", among=main)

    def at(self, args: tuple[Any, ...]) -> Pullback:
        """The linear function at this point."""
        program = self.program(args, {})
        out, saved = program.forward(args, {})
        primal_out, aux = out if self.has_aux else (out, None)
        return Pullback(program, saved, self.points(args), primal_out, aux)


class LinearMap:
    """The derivative at one point, where ``f`` has been computed: ``out`` and ``aux`` are what it returned.

    What the forward pass computed (random masks too) is remembered, so that it may be called several times.
    """

    def __init__(self, program: Program | Plain, saved: Any, points: Any, out: Any, aux: Any) -> None:
        self.program = program
        self.saved = saved
        self.points, self.spec = pytree.tree_flatten(points)
        self.out, self.out_spec = pytree.tree_flatten(out)
        self.aux = aux


class Pullback(LinearMap):
    """``u -> Jᵀu``."""

    @untraced
    def __call__(self, cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        """Gradients nested like the primals, for cotangents nested like the outputs.

        Args:
            retain_graph: false forgets what the forward pass remembered: this call is the last one.
            create_graph: whether PyTorch's autograd may go on from the gradients; by default, whether grad mode is on.
        """
        mode = nullcontext() if create_graph is None else torch.set_grad_enabled(create_graph)
        with ordinary_tensors(), mode:
            leaves, spec = pytree.tree_flatten(cotangents)
            if spec != self.out_spec:
                raise GraphError(
                    f"Expected pytree structure of cotangents to be the same as pytree structure of outputs to the "
                    f"function: the cotangents have the structure {spec}, the outputs {self.out_spec}"
                )
            pulled = self.pull([_fitting(c, o, n) for c, o, n in zip(leaves, self.out, self.program.main, strict=True)])
            if not retain_graph:
                self.saved = None
            return pytree.tree_unflatten(pulled, self.spec)

    def pull(self, cotangents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same for flat cotangents that fit."""
        if self.saved is None:
            raise GraphError("the vjp function was called with retain_graph=False before, and has forgotten its values")
        shares = self.program.linear(self.saved, dict(zip(self.program.main, cotangents, strict=True)))
        return zeros_for([shares.get(n) for n in self.program.names], self.points)


def _fitting(cotangent: Any, result: torch.Tensor, name: str) -> torch.Tensor:
    """``cotangent`` in the dtype of ``result``, checked against it."""
    if not isinstance(cotangent, torch.Tensor):
        raise GraphError(f"the cotangent of {name!r} must be a tensor, got {type(cotangent).__name__}")
    convertible = all(t.is_floating_point() for t in (cotangent, result))
    if cotangent.shape != result.shape or not (cotangent.dtype == result.dtype or convertible):
        raise GraphError(
            f"the cotangent of {name!r} has shape {tuple(cotangent.shape)} and dtype {cotangent.dtype}, the result "
            f"has {tuple(result.shape)} and {result.dtype}"
        )
    return cotangent.to(result.dtype)


@untraced
def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """``(outputs, vjp_fn)``: the value of ``f`` and the function that pulls cotangents back.

    Args:
        has_aux: ``f`` returns a pair (outputs, aux); what comes back is ``(outputs, vjp_fn, aux)``.

    Returns:
        outputs: ``f(*primals)``.
        vjp_fn: takes cotangents nested like the outputs, returns a tuple with one gradient for each primal. What the
            forward pass computed (random masks too) is remembered, so it may be called several times.

    Raises:
        GraphError: an output is no floating-point or complex tensor; of ``vjp_fn``: cotangents do not match them.
    """
    with ordinary_tensors():
        pullback = transform_of(Vjp, f, tuple(range(len(primals))), has_aux).at(primals)
    out = pytree.tree_unflatten(pullback.out, pullback.out_spec)
    return (out, pullback, pullback.aux) if has_aux else (out, pullback)


def transform_of(kind: type[Any], f: Callable[..., Any], argnums: Argnums, has_aux: bool) -> Any:
    """The transform of ``f`` with the graphs that earlier calls made."""
    transform = kind(f, argnums, has_aux)
    transform.cache = Cache(f, kept_for(f, (kind, argnums, has_aux)))
    return transform

"""Which inputs get a gradient, and of which results: one selection for the recursion and for who counts its work."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from memograd.adjoint.activity import is_smooth
from memograd.errors import GraphError
from memograd.graph.graph import Graph, OutputKind


def inputs_of(graph: Graph, wrt: Sequence[str] | None) -> list[str]:
    """The names asked for, or those of ``default_wrt``.

    Raises:
        GraphError: there is nothing to differentiate with respect to, or an input was captured as one that is not.
    """
    refuse_other(graph)
    if wrt is not None and (isinstance(wrt, str) or not isinstance(wrt, Iterable)):
        raise GraphError(f"wrt takes a list of names of inputs, got {wrt!r}")
    names = default_wrt(graph) if wrt is None else list(wrt)
    fixed = [i.name for i in graph.inputs if i.fixed and i.name in names]
    if fixed:
        raise GraphError(
            f"{fixed[0]!r} was captured as an input that is not differentiated, because another one requires a "
            "gradient and it does not; capture with x.requires_grad_() for each input to differentiate"
        )
    return names


def refuse_other(graph: object) -> None:
    """Raises GraphError for what is no graph."""
    if not isinstance(graph, Graph):
        raise GraphError(f"expected a graph, as mg.capture returns it, got {type(graph).__name__}")


def default_wrt(graph: Graph) -> list[str]:
    """All parameters that require gradients, else all floating-point arguments."""
    names = [i.name for i in graph.inputs if i.kind == "parameter" and i.tensor is not None and i.tensor.requires_grad]
    if not names:
        pairs = zip(graph.inputs, graph.placeholders, strict=True)
        names = [i.name for i, n in pairs if i.kind == "input" and is_smooth(n) and not i.fixed]
    if not names:
        raise GraphError(
            "nothing to differentiate with respect to: no parameter requires a gradient, and no argument "
            "is a floating-point tensor"
        )
    return names


def targets_of(
    graph: Graph, of: str | None, cotangents: OutputKind | None, among: Collection[str] | None = None
) -> list[int]:
    """Positions of the results to differentiate."""
    if cotangents is not None:
        named = [i for i, o in enumerate(graph.outputs) if o.kind == cotangents and (among is None or o.name in among)]
        return [i for i in named if is_smooth(graph.results[i])]
    if of is not None:
        named = [i for i, o in enumerate(graph.outputs) if o.name == of and o.kind != "mutation"]
        if not named:
            raise GraphError(f"the graph has no result named {of!r}; it has {[o.name for o in graph.outputs]}")
        chosen = named[0]
    elif graph.outputs and graph.outputs[0].kind == "output":
        chosen = 0
    else:
        raise GraphError("the graph returns no tensor to differentiate")
    value = graph.results[chosen].meta["val"]
    if value.numel() != 1 or not value.is_floating_point():
        raise GraphError(
            f"the loss must be one real number, but {graph.outputs[chosen].name!r} is {value.dtype} of shape "
            f"{tuple(value.shape)}; reduce it (.mean(), .sum()), or use mg.vjp with a cotangent of that shape"
        )
    return [chosen]

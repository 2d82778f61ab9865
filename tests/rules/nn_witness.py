"""Compare our gradients with those of torch.autograd, for every parameter and every floating-point argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import memograd as mg
from memograd.graph.graph import Graph

TOLERANCE = 1e-10


def check(f: Callable[..., Any], *args: Any, tolerance: float = TOLERANCE) -> Graph:
    """First order: the gradients of all results with random cotangents. Returns the differentiated graph."""
    torch.manual_seed(0)
    args = pytree.tree_map_only(torch.Tensor, _leaf, args)
    graph = mg.capture(f, *args)
    wrt = [i.name for i in graph.inputs if i.kind in ("parameter", "input") and _smooth_input(graph, i.name)]
    joint = mg.differentiate(graph, wrt=wrt, cotangents="output")
    state = {i.name: i.tensor.clone() for i in graph.inputs if i.kind == "buffer"}
    outs = _results(f(*args))
    cotangents = [torch.randn_like(o) for o in outs]
    sources = _sources(graph, wrt, args)
    expected = torch.autograd.grad(outs, list(sources.values()), cotangents, allow_unused=True)
    for entry in graph.inputs:  # both runs see the same running statistics
        if entry.kind == "buffer":
            entry.tensor.copy_(state[entry.name])
    with torch.no_grad():
        found = joint.function(*joint.bind(args, {}, extra=cotangents))
    gradients = {o.name: v for o, v in zip(joint.outputs, found, strict=True) if o.kind == "gradient"}
    for name, want in zip(sources, expected, strict=True):
        _compare(name, gradients.get(name), want, tolerance)
    return joint


def check_second(
    f: Callable[..., Any], *args: Any, tolerance: float = TOLERANCE, reference: Callable[..., Any] | None = None
) -> None:
    """Second order: the gradients of a random linear form of the first gradients.

    ``f`` is a function of tensors alone; the adjoint it is seeded with is an argument too, so that the derivative of
    a backward kernel with respect to the adjoint is compared as well. ``reference`` computes the same as ``f`` for
    autograd, where that cannot differentiate a kernel twice.
    """
    torch.manual_seed(0)
    args = pytree.tree_map_only(torch.Tensor, _leaf, args)
    smooth = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]

    def scalar(seed, *inner, f=f):
        y = _results(f(*inner))[0]
        return (y * seed).sum()

    seed = _leaf(torch.randn_like(_results(f(*args))[0]))
    joint = _wrt_inputs(mg.capture(scalar, seed, *args))

    def first(seed, *inner):
        results = joint.function(*joint.bind((seed, *inner), {}))
        return [r for o, r in zip(joint.outputs, results, strict=True) if o.kind == "gradient"]

    graph = mg.capture(first, seed, *args)
    second = _wrt_inputs(graph, cotangents="output")
    gradients = torch.autograd.grad(scalar(seed, *args, f=reference or f), [seed, *smooth], create_graph=True)
    cotangents = [torch.randn_like(g) for g in gradients]
    reachable = [(g, c) for g, c in zip(gradients, cotangents, strict=True) if g.requires_grad]
    expected = torch.autograd.grad(
        [g for g, _ in reachable], [seed, *smooth], [c for _, c in reachable], allow_unused=True
    )
    with torch.no_grad():
        found = second.function(*second.bind((seed, *args), {}, extra=cotangents))
    by_name = {o.name: v for o, v in zip(second.outputs, found, strict=True) if o.kind == "gradient"}
    names = [
        i.name
        for i, n in zip(second.inputs, second.placeholders, strict=True)
        if i.kind == "input" and n.meta["val"].is_floating_point()
    ]
    for name, want in zip(names, expected, strict=True):
        _compare(f"second order, {name}", by_name.get(name), want, tolerance)


def _wrt_inputs(graph: Graph, **options: Any) -> Graph:
    wrt = [i.name for i in graph.inputs if i.kind == "input" and _smooth_input(graph, i.name)]
    return mg.differentiate(graph, wrt=wrt, **options)


def double(module: nn.Module) -> nn.Module:
    """The module in float64, with parameters that are not special (no zeros, no ones)."""
    torch.manual_seed(1)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
        for b in module.buffers():
            if b.is_floating_point():
                b.copy_(torch.rand_like(b) + 0.5)
    return module


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64) * 0.9 + 0.05


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().clone()
    return tensor.requires_grad_() if tensor.is_floating_point() or tensor.is_complex() else tensor


def _results(out: Any) -> list[torch.Tensor]:
    leaves = [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
    return [x for x in leaves if x.is_floating_point() or x.is_complex()]


def _smooth_input(graph: Graph, name: str) -> bool:
    value = graph.placeholder(name).meta["val"]
    return value.is_floating_point() or value.is_complex()


def _sources(graph: Graph, wrt: list[str], args: Any) -> dict[str, torch.Tensor]:
    given = iter([x for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)])
    tensors = {
        i.name: next(given) if i.kind == "input" else i.tensor for i in graph.inputs if i.kind in ("input", "parameter")
    }
    return {name: tensors[name] for name in wrt}


def _compare(name: str, ours: Any, theirs: Any, tolerance: float) -> None:
    if theirs is None or ours is None:
        other = ours if theirs is None else theirs
        assert other is None or not other.any(), f"{name}: one of the two has no gradient (ours: {ours is not None})"
        return
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
    scale = theirs.abs().max().item() if theirs.numel() else 0.0
    difference = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
    assert difference <= tolerance * max(scale, 1e-3), f"{name}: {difference:.2e} against {scale:.2e}"

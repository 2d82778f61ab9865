"""``vjp``: cotangents pulled back, u -> Jᵀu. The graph is cut where they come in: the first half runs once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.adjoint.partition import Halves, gather, partition
from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.pipeline import differentiate
from memograd.transforms.transform import Transform, zeros_for


class Vjp(Transform):
    def build(self, args: tuple[Any, ...], concrete: bool) -> tuple[Graph, Halves, list[str]]:
        graph, names = self.capture(args, {}, concrete)
        joint = differentiate(graph, names, cotangents="output")
        return joint, partition(joint), names

    def forward(self, args: tuple[Any, ...], has_aux: bool = False) -> tuple[Any, Callable[..., Any]]:
        joint, halves, names = self.cache.get(args, {}, lambda concrete: self.build(args, concrete))
        flat = self._flat(joint, args)
        early = [t for t, i in zip(flat, joint.inputs, strict=True) if i.kind != "cotangent"]
        results, saved = gather(halves, early)
        joint.write_back(results, flat)
        values = [results[i] for i in joint.positions("output")]
        wanted = [i.of for i in joint.inputs if i.kind == "cotangent"]
        gradients = [joint.outputs[i].name for i in joint.positions("gradient")]
        outputs = joint.output_tree(values)

        def pull(cotangents: Any, *more: Any) -> Any:
            given = _cotangents(joint, values, wanted, (cotangents, *more) if more else cotangents)
            found = dict(zip(gradients, halves.backward(*saved, *given), strict=True))
            chosen = pytree.tree_leaves([args[a] for a in self.argnums_in(len(args))])
            return self.pack(args, zeros_for([found.get(n) for n in names], chosen))

        return outputs, pull

    def _flat(self, joint: Graph, args: tuple[Any, ...]) -> list[Any]:
        count = sum(i.kind == "cotangent" for i in joint.inputs)
        likes = [n.meta["val"] for n, i in zip(joint.placeholders, joint.inputs, strict=True) if i.kind == "cotangent"]
        return joint.bind(args, {}, likes if count else ())


def _cotangents(joint: Graph, values: list[torch.Tensor], wanted: list[str], given: Any) -> list[torch.Tensor]:
    """The cotangents of the smooth results, in order, checked against them."""
    leaves, spec = pytree.tree_flatten(given)
    calling = joint.calling
    if spec != calling.out_spec:
        raise GraphError(f"the cotangents have the structure {spec}, the results {calling.out_spec}")
    names = [joint.outputs[i].name for i in joint.positions("output")]
    by_name = dict(zip(names, (leaves[i] for i in calling.tensor_out), strict=True))
    for name, value in zip(names, values, strict=True):
        cotangent = by_name[name]
        if name in wanted and (cotangent.shape != value.shape or cotangent.dtype != value.dtype):
            raise GraphError(
                f"the cotangent of {name!r} has shape {tuple(cotangent.shape)} and dtype {cotangent.dtype}, the result "
                f"has {tuple(value.shape)} and {value.dtype}"
            )
    return [by_name[name].contiguous() for name in wanted]  # as it was traced: rules may take views of it


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``(outputs, vjp_fn)``: the value of ``f`` and the function that pulls cotangents back.

    Returns:
        outputs: ``f(*primals)``.
        vjp_fn: takes cotangents nested like the outputs, returns a tuple with one gradient for each primal. What the
            forward pass computed (random masks too) is remembered, so it may be called several times.
    """
    return Vjp(f, tuple(range(len(primals)))).forward(primals)

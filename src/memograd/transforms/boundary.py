"""A graph that PyTorch's autograd goes through as one step, whose derivative is again a graph of ours.

What a transform returns can be differentiated on by PyTorch (``mg.grad(f)(x).pow(2).sum().backward()``). Were the graph
run operator by operator under autograd, PyTorch would use its own derivatives of them: it has none for many backward
kernels, and for the statistics that normalizations return it takes zero, which is right only next to its own kernels.
So the graph is one ``autograd.Function``. Its inputs are remembered and nothing else; its backward is the derivative of
the graph by our rules, itself such a step, so that there is no last order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch

from memograd._torch import batched, inside_torch_func, is_batched, is_wrapped, unbatched
from memograd.adjoint.activity import active_nodes
from memograd.as_written import call
from memograd.errors import CaptureError, GraphError
from memograd.graph.bits import worked_out
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.ops import is_random
from memograd.pipeline import differentiate, simplify
from memograd.transforms.surroundings import apart

Around = Callable[[], AbstractContextManager[Any]]
Build = Callable[[Graph], Callable[..., Any]]


class Step:
    """A graph as a function of its flat inputs.

    Args:
        prepare: makes of it what is run in a batch of ``vmap``.
        build: makes of it what is run otherwise.
    """

    def __init__(
        self,
        graph: Graph,
        prepare: Callable[[Graph], Graph],
        build: Build = attrgetter("function"),
    ) -> None:
        names = tuple(Input("input", f"input_{k}") for k in range(len(graph.inputs)))
        results = tuple(Output("output", f"output_{k}") for k in range(len(graph.outputs)))
        self.graph = replace(graph, inputs=names, outputs=results, wrt=())
        self.prepare = prepare
        self.build = build
        self._function: Any = None
        self._derivatives: dict[tuple[tuple[int, ...], ...], tuple[Step, list[int], list[int]]] = {}
        self._constant: dict[tuple[bool, ...], frozenset[int]] = {}
        self._batch: Any = None

    def __call__(self, flat: Sequence[Any], around: Around = nullcontext) -> tuple[torch.Tensor, ...]:
        """``around``: what the graph, and each derivative of it, runs in: the generators as they stood."""
        return _Function.apply(self, around, *flat) if self.graph.outputs else ()  # pyright: ignore[reportReturnType]

    def run(self, flat: Sequence[Any], around: Around) -> tuple[torch.Tensor, ...]:
        if not inside_torch_func():
            if self._function is None:
                self._function = self.build(self.graph)
            function = self._function
        else:
            if self._batch is None:
                with apart():
                    self._batch = self.prepare(self.graph).function
            function = self._batch
        with around():
            return run(function, flat)

    def constant(self, tracked: tuple[bool, ...]) -> frozenset[int]:
        """The results with no derivative by inputs of which these are tracked: ``detach``, or no way there."""
        if tracked not in self._constant:
            sources = [p for p, t in zip(self.graph.placeholders, tracked, strict=True) if t]
            active = set(active_nodes(sources, self.graph.results))
            self._constant[tracked] = frozenset(k for k, r in enumerate(self.graph.results) if r not in active)
        return self._constant[tracked]

    def pulled(
        self, flat: Sequence[Any], cotangents: Sequence[Any], wanted: Sequence[bool], around: Around
    ) -> list[Any]:
        """Gradients of the inputs that are ``wanted``; None where there are none. A result that nobody went on from has
        the cotangent None, and no part in them: a zero would make NaN of its infinite derivatives."""
        _refuse_freed(flat)
        key = tuple(k for k, w in enumerate(wanted) if w), tuple(k for k, c in enumerate(cotangents) if c is not None)
        if key not in self._derivatives:
            with apart():
                self._derivatives[key] = self._derivative(*key)
        step, ways, places = self._derivatives[key]
        gradients: list[Any] = [None] * len(flat)
        values = step([*flat, *(cotangents[k] for k in ways)], around)
        for place, value in zip(places, values, strict=True):
            gradients[place] = value
        return gradients

    def _derivative(self, wanted: Sequence[int], arriving: Sequence[int]) -> tuple[Step, list[int], list[int]]:
        """The step that pulls back, the results whose cotangents it takes, the inputs whose gradients it returns."""
        graph = self.graph if len(arriving) == len(self.graph.outputs) else only(self.graph, arriving)
        joint = differentiate(graph, [f"input_{k}" for k in wanted], cotangents="output")
        ways = [int(i.of.removeprefix("output_")) for i in joint.inputs if i.kind == "cotangent"]
        places = [int(o.name.removeprefix("input_")) for o in joint.outputs if o.kind == "gradient"]
        return Step(only(joint, joint.positions("gradient")), self.prepare, self.build), ways, places


class _Function(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(step: Step, around: Around, *flat: Any) -> Any:
        given = {id(t) for t in flat}
        results = step.run(flat, around)
        return tuple(r.view_as(r) if id(r) in given else r for r in results)  # an input itself means something else

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.step, ctx.around = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.set_materialize_grads(inside_torch_func())  # a batch of vmap takes no None
        constant = (
            ()
            if inside_torch_func()
            else ctx.step.constant(tuple([isinstance(t, torch.Tensor) and t.requires_grad for t in inputs[2:]]))
        )
        ctx.mark_non_differentiable(
            *(o for k, o in enumerate(output) if k in constant or not (o.is_floating_point() or o.is_complex()))
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        laid = [None if c is None else worked_out(c).contiguous() for c in cotangents]
        if torch.is_grad_enabled() and any([c is not None and is_batched(c) for c in laid]):
            step, saved, needs, around = ctx.step, ctx.saved_tensors, ctx.needs_input_grad[2:], ctx.around
            gradients = one_by_one(lambda each: dict(enumerate(step.pulled(saved, each, needs, around))), laid)
            return (None, None, *gradients.values())
        return (None, None, *ctx.step.pulled(ctx.saved_tensors, laid, ctx.needs_input_grad[2:], ctx.around))


def one_by_one(pull: Callable[[list[Any]], dict[int, Any]], cotangents: Sequence[Any]) -> dict[int, Any]:
    """What ``pull`` makes of many cotangents at once (``autograd.grad(..., is_grads_batched=True)``), with a history:
    PyTorch keeps none of such tensors through an ``autograd.Function``, so they are pulled back one after the other.

    Raises:
        CaptureError: a batch of batches.
    """
    rows = [unbatched(c) if c is not None and is_batched(c) else None for c in cotangents]
    if any(r is None and c is not None and is_batched(c) for r, c in zip(rows, cotangents, strict=True)):
        raise CaptureError(
            "autograd.grad(..., is_grads_batched=True, create_graph=True) inside another one, through a graph of ours: "
            "one of the two has to be a loop"
        )
    count = next(len(r) for r in rows if r is not None)
    answers = [pull([c if r is None else r[n] for c, r in zip(cotangents, rows, strict=True)]) for n in range(count)]
    if not answers:
        raise CaptureError("autograd.grad(..., is_grads_batched=True, create_graph=True) with no cotangents at all")
    together = {k: [answer[k] for answer in answers] for k in answers[0]}
    return {k: None if each[0] is None else batched(torch.stack(each)) for k, each in together.items()}


def _refuse_freed(flat: Sequence[Any]) -> None:
    """Raises GraphError where the memory of an input was given back since."""
    for tensor in flat:
        if tensor.numel() and not is_wrapped(tensor) and not tensor.untyped_storage().nbytes():
            raise GraphError(
                f"a derivative of higher order reads a tensor of shape {list(tensor.shape)} whose memory was freed "
                "behind the first derivative. fully_shard does so with parameters, in plain PyTorch too: compute the "
                "inner derivative in the model's forward (torch.autograd.grad there), or use DistributedDataParallel"
            )


def only(graph: Graph, positions: Sequence[int]) -> Graph:
    """``graph`` with these of its results."""
    results, outputs = [graph.results[k] for k in positions], tuple(graph.outputs[k] for k in positions)
    return simplify(graph.rewritten(results=results, outputs=outputs))


def repeatable(graph: Graph) -> bool:
    """Whether computing it again gives the same numbers. (What is called as it is written may draw random numbers, but
    has no derivative for which it would be computed again.)"""
    return not any(is_random(n) and n.target is not call for n in graph.nodes)

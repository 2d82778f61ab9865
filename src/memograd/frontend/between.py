"""Gradients of results of a call by other results of it.

All results of a call come out of one node of autograd's graph, which knows of no way from one to another. In PyTorch
there is one, where a model returns what it computed on the way (features, a latent, hidden states): the gradient of a
score by the features, and what a hook on these or ``retain_grad()`` sees.

So a result that others were computed from is handed to these as an input of one more node each, a *tie*, which passes
the cotangent on and usually nothing else. Where a backward pass asks for the gradient by one, it computes what comes
back to it from the results behind, by a graph that is cut there. What so arrives twice in the node of the program,
which goes all the way itself, is subtracted there: gradients are linear in what arrives.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from memograd._torch import apply_alone, asked_for, at_the_end, current_pass, hooks_of
from memograd.adjoint.activity import sources_of
from memograd.errors import CaptureError
from memograd.frontend.boundary import Call
from memograd.frontend.load import build_of
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.transforms.batches import for_batches
from memograd.transforms.boundary import Step, only

Tensor = torch.Tensor
_FURTHER = (
    "a gradient of second order by a result of the wrapped model (a hook on that, retain_grad, or autograd.grad by it) "
    "through a first gradient that was taken by something else: take the first one by this result too, or in the "
    "model's forward"
)


class Between:
    """The ways from results of ``graph`` to others of them.

    Args:
        nodes: the results.
        tracked: positions of those that have a history.

    Attributes:
        sources: of each result that others lead to, by position: these.
    """

    def __init__(self, graph: Graph, nodes: Sequence[fx.Node], tracked: Sequence[int], backend: str) -> None:
        self._graph, self._nodes, self._backend = graph, nodes, backend
        behind = sources_of([nodes[k] for k in tracked])
        at = {node: k for k, node in enumerate(graph.fx.nodes)}
        self.sources: dict[int, list[int]] = {}
        for k in sorted(tracked, key=lambda k: at[nodes[k]]):
            bits = behind.get(nodes[k], 0)
            sources = [j for bit, j in enumerate(tracked) if bits >> bit & 1 and j != k]
            if sources:
                self.sources[k] = sources
        self._steps: dict[tuple[int, ...], Step] = {}

    def tied(self, call: Call, handed: Sequence[Tensor]) -> Sequence[Tensor]:
        """``handed``, of which autograd knows what was computed of what."""
        tied = list(handed)
        for k, sources in self.sources.items():
            tied[k] = _tie(call, self, k, tied[k], *[tied[j] for j in sources])
        call.inner = {j: weakref.ref(tied[j]) for j in {j for sources in self.sources.values() for j in sources}}
        return tied

    def coming_back(self, call: Call, place: int, cotangent: Tensor, node: Any) -> list[Any]:
        """The gradients of the result at ``place`` by those it was computed of, where somebody asks for them."""
        sources, asked = self.sources[place], _asked(call, node)
        cuts = [j for j in sources if j in asked] if asked else ()
        if not cuts:
            return [None] * len(sources)
        call.program.settings.say_unplanned(many=False)
        flat = [*call.primals(), *(asked[j] for j in cuts)]
        step = self._step(place, cuts)
        wanted = [k >= len(flat) - len(cuts) for k in range(len(flat))]
        gradients = dict(zip(cuts, step.pulled(flat, [cotangent], wanted, call.generators)[-len(cuts) :], strict=True))
        number = current_pass()
        if number not in call.twice:
            call.twice[number] = {}
            at_the_end(partial(call.twice.pop, number, None))  # where the program's own node has no part in the pass
        twice = call.twice[number]
        for j, gradient in gradients.items():
            if gradient is not None:
                twice.setdefault(j, []).append(gradient)
        return [gradients.get(j) for j in sources]

    def arriving(self, call: Call, cotangents: Sequence[Any]) -> Sequence[Any]:
        """``cotangents`` of a call's results, without what their own derivative finds there anyway."""
        twice = call.twice.pop(current_pass(), None)
        if twice is None:
            return cotangents
        rest = list(cotangents)
        for j, gradients in twice.items():
            alone = len(gradients) == 1 and rest[j] is gradients[0]
            rest[j] = None if alone or rest[j] is None else rest[j] - sum(gradients)
        return tuple(rest)

    def refuse_further(self, call: Call, node: Any, gradients: Sequence[Any]) -> None:
        """Let who goes on from these ``gradients``, of a call that ``node`` made, and asks for that by an inner result
        be refused: the way there goes past its tie."""

        def look(_: Tensor) -> None:
            if _asked(call, node):
                raise CaptureError(_FURTHER)

        for gradient in gradients:
            if gradient is not None and gradient.requires_grad:
                gradient.register_hook(look)

    def _step(self, place: int, cuts: Sequence[int]) -> Step:
        """The result at ``place`` as a function of what the program was given and of the results at ``cuts``."""
        key = (place, *cuts)
        if key not in self._steps:
            new = Rewriting()
            new.write(self._graph.placeholders)
            for j in cuts:
                node = self._nodes[j]
                new.where[node] = new.fx.placeholder(f"between_{j}")
                new.where[node].meta["val"] = node.meta["val"]
            inputs = (*self._graph.inputs, *(Input("input", f"between {j}") for j in cuts))
            results, outputs = [self._nodes[place]], (Output("output", "result", tracked=True),)
            cut = self._graph.rewritten(new=new, results=results, inputs=inputs, outputs=outputs, wrt=())
            self._steps[key] = Step(only(cut, [0]), for_batches, build_of(self._backend))
        return self._steps[key]


def _asked(call: Call, node: Any) -> dict[int, Tensor]:
    """The inner results of a call whose gradient somebody asks for in this backward pass, by position."""
    there = {j: t for j, ref in call.inner.items() if (t := ref()) is not None}
    if not there:
        return there
    wanted = asked_for([*there.values()], node)
    return {j: t for (j, t), w in zip(there.items(), wanted, strict=True) if w or hooks_of(t) or t.retains_grad}


class _Tie(torch.autograd.Function):
    """A result, and those it was computed of."""

    @staticmethod
    def forward(ctx: Any, call: Call, between: Between, place: int, result: Tensor, *sources: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.between, ctx.place = call, between, place
        return result.view_as(result) if result._is_view() else result.detach()  # which a loop may write to, both

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        [cotangent] = cotangents
        if cotangent is None:
            return (None, None, None, None, *[None] * len(ctx.between.sources[ctx.place]))
        node = ctx.next_functions[0][0]
        back = ctx.between.coming_back(ctx.call, ctx.place, cotangent, node)
        return (None, None, None, cotangent, *back)


_tie = apply_alone(_Tie)

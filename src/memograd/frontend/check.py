"""The witness of a wrapped model: PyTorch runs the same call beside ours, and the gradients must agree.

PyTorch's own forward pass runs first, on the same arguments and with the same random numbers, and leaves nothing behind
but its tape, which waits for the cotangents that the loop sends back. So the comparison is of this very call, whatever
the loss is. For one call it needs the memory of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from memograd import autocast
from memograd._torch import copy_of, pytree, without_hooks
from memograd.errors import GradientMismatchError
from memograd.frontend.program import Program
from memograd.tracing.under_way import TURN, plainly
from memograd.tracing.undisturbed import Contents, Generators, taken_back
from memograd.witness.agreement import NOISE, Difference, difference, largest, precision_of

Tensor = torch.Tensor


class Witness:
    """PyTorch's own run of one call of ``function``, a forward pass of ``model``.

    Attributes:
        results: what PyTorch returned, by position among the program's results.
    """

    def __init__(
        self, program: Program, model: nn.Module, function: Callable[..., Any], args: Any, kwargs: Any, say: Any
    ) -> None:
        self.program = program
        self.say = say  # takes the reason: how it came out
        leaves, spec = pytree.tree_flatten((args, kwargs))
        leaves = [_copy(x) if isinstance(x, Tensor) else x for x in leaves]
        own_args, own_kwargs = pytree.tree_unflatten(leaves, spec)
        given = iter([leaves[k] for k in program.graph.calling.tensor_in])
        inputs: dict[str, Any] = {i.name: i.bound if i.tensor is not None else next(given) for i in program.early}
        self.sources = {name: inputs[name] for name in program.wrt}
        bound = [i.bound for i in program.early if i.bound is not None]
        generators, contents = Generators(model), Contents([*bound, *model.parameters(), *model.buffers()])
        others = [x for x in leaves if not isinstance(x, Tensor)]
        try:
            # a detached tensor has no part in a cycle, and nobody asks for its version: buffers are put back
            hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t)
            with TURN, plainly(), taken_back(model, *others), without_hooks(self.sources.values()), hooks:
                out = pytree.tree_leaves(function(*own_args, **own_kwargs))
        finally:
            contents.put_back()
            generators.put_back()
        self.results: dict[int, Tensor] = {}
        for position, k in zip(program.graph.calling.tensor_out, program.graph.positions("output"), strict=True):
            if k in program.places:
                self.results[program.places[k]] = out[position]

    def look(self, results: Sequence[Tensor]) -> None:
        """Compare our results, at once: the loop may write to them.

        Raises:
            GradientMismatchError: they differ by more than rounding.
        """
        share = precision_of(self.program.graph).loose
        pairs = [(k, results[k], value) for k, value in self.results.items()]
        wrong = [difference(f"result {k} of the model", "", ours, value, share, 0.0) for k, ours, value in pairs]
        if any(wrong):
            raise _mismatch([w for w in wrong if w is not None])

    def compare(self, used: frozenset[int], cotangents: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Compare what our forward and backward pass computed with PyTorch's.

        Raises:
            GradientMismatchError: they differ by more than rounding.
        """
        program = self.program
        if not used <= self.results.keys():
            self.say("not compared: the loss uses what the model leaves in an attribute, and not what it returns")
            return
        order = sorted(used)
        try:
            with without_hooks(self.sources.values()), autocast.off():
                theirs = torch.autograd.grad(
                    [self.results[k] for k in order],
                    tuple(self.sources.values()),
                    [cotangents[k] for k in order],
                    allow_unused=True,
                )
        except (RuntimeError, NotImplementedError) as error:
            self.say(f"not compared: PyTorch cannot run it: {str(error).splitlines()[0]}")
            return
        program.checked.add(used)
        ours = {i.name: g for i, g in zip(program.early, gradients, strict=True)}
        wrong = self._wrong(ours, dict(zip(self.sources, theirs, strict=True)))
        if wrong:
            raise _mismatch(wrong)
        self.say(f"agrees with torch.autograd: {_counted(len(used), 'result')} and {_counted(len(theirs), 'gradient')}")

    def _wrong(self, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Difference]:
        share = precision_of(self.program.graph).loose
        noise = NOISE * share * max((largest(g) for g in theirs.values() if g is not None), default=0.0)
        wrong: list[Difference | None] = []
        for name, gradient in theirs.items():
            mine = ours[name]
            if (mine is None) != (gradient is None):
                raise _mismatch(
                    [Difference(f"the gradient of {name!r}, which one of the two has not,", name, inf, 0.0, (), 0, 0)]
                )
            if mine is not None and gradient is not None:
                wrong.append(difference(f"the gradient of {name!r}", name, mine, gradient, share, noise))
        return [w for w in wrong if w is not None]


def _mismatch(wrong: list[Difference]) -> GradientMismatchError:
    first, *others = sorted(wrong, key=lambda d: (bool(d.name), -d.share))
    more = f" (and {len(others)} more: {', '.join(d.what for d in others[:3])})" if others else ""
    return GradientMismatchError(
        f"{first}{more}. These gradients were not handed on. Please report it; until it is mended, "
        "unwrap this model (mg.unwrap), or give the operator a rule with @memograd.rule",
        name=first.name,
        error=first.error,
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _copy(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor
    return copy_of(tensor.detach()).requires_grad_(tensor.requires_grad)

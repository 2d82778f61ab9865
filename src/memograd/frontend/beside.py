"""PyTorch's own run of a call of a wrapped model, beside ours, which leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from memograd._torch import copy_of, pytree, redirected, without_dispatch_modes, without_hooks
from memograd.frontend.carried import as_leaves
from memograd.frontend.program import Program
from memograd.tracing.holders import noted
from memograd.tracing.reads import Reads
from memograd.tracing.registered import unregistered
from memograd.tracing.under_way import TURN, plainly
from memograd.tracing.undisturbed import Contents, Generators, undone
from memograd.witness.autograd import nudged

Tensor = torch.Tensor


def ran_beside(
    program: Program,
    model: nn.Module,
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
    drawn: Generators,
    share: float = 0.0,
) -> tuple[dict[int, Any], dict[str, Any], list[Any], list[tuple[str, Any]], list[tuple[Tensor, str]]] | None:
    """What can be differentiated by, by position; copies of the arguments that are written to, by name, as they are
    afterwards; what the call returns on copies of the arguments; what it has met; and where the generators stand then.
    None where it cannot be run apart from the calls before it. ``share``: of themselves, by which its parameters are
    changed beforehand."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    copies = {id(x): _copy(x) for x in leaves if isinstance(x, Tensor)}  # of one in two places there is one
    copies |= {id(leaves[k]): leaves[k] for k, _ in program.guards.given}
    leaves = [copies[id(x)] if isinstance(x, Tensor) else x for x in leaves]
    passed, at = leaves.copy(), program.graph.calling.tensor_in
    written = {program.graph.outputs[k].name for k in program.rewritten}
    arguments = {i.name: k for i, k in zip((i for i in program.early if i.tensor is None), at, strict=True)}
    for name in written:  # what it was is a leaf, which nothing may be written to
        passed[arguments[name]] = leaves[arguments[name]].clone()
    new = {name: passed[arguments[name]] for name in written}
    given = iter([leaves[k] for k in at])
    inputs = {i.name: i.bound if i.tensor is not None else next(given) for i in program.early}
    places = {name: place for place, name in enumerate(inputs)}
    bound = [i.bound for i in program.early if i.bound is not None]
    contents = Contents([*bound, *model.parameters(), *model.buffers()])
    roots = [model, *[x for x in leaves if not isinstance(x, Tensor)]]
    try:
        with TURN, as_leaves(bound, program.guards) as ends:
            if ends is None:
                return None
            sources: dict[int, Any] = {places[n]: ends.get(id(inputs[n]), inputs[n]) for n in program.wrt}
            if share:
                nudged([t for t in sources.values() if isinstance(t, nn.Parameter)], share)
            own_args, own_kwargs = pytree.tree_unflatten([ends.get(id(x), x) for x in passed], spec)
            apart = without_dispatch_modes(of_users=False), redirected()
            reads, users = Reads(("", root) for root in roots), bound_sources(program, sources)
            given = [*leaves, *passed, *bound, *ends.values()]
            hooks = unregistered(given) if program.effects.hooks else nullcontext()
            with plainly(), undone(reads), hooks, without_hooks(users), apart[0], drawn.again() as own, apart[1]:
                out = pytree.tree_leaves(function(*own_args, **own_kwargs))
            behind = [(generator.get_state(), device) for device, generator in own.items()]
            return sources, new, out, reads.met(), behind
    finally:
        contents.put_back()


def bound_sources(program: Program, sources: dict[int, Tensor]) -> list[Tensor]:
    """Those of the sources that the program is bound to, and no copies: their hooks are the user's own."""
    return [t for place, t in sources.items() if program.early[place].bound is t]


def _copy(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor
    return noted(copy_of(tensor.detach()).requires_grad_(tensor.requires_grad), tensor)

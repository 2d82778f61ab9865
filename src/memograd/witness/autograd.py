"""The witness: PyTorch runs the program itself, forward and ``torch.autograd``, and nothing remembers that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from memograd._torch import copy_of, pytree, without_hooks
from memograd.graph.graph import Graph
from memograd.tracing.under_way import TURN, plainly
from memograd.tracing.undisturbed import Contents, Generators, taken_back
from memograd.witness.agreement import Left, Results, number
from memograd.witness.widened import Widened, widen

Tensor = torch.Tensor


def by_autograd(
    program: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    joint: Graph,
    drawn: Generators,
    nudge: float = 0.0,
    wide: bool = False,
    watching: Any = None,
) -> Results:
    """Loss, gradients and writes of ``program(*args, **kwargs)`` by PyTorch. Afterwards everything is as it was.

    Args:
        joint: the program's differentiated graph; it names the parameters and what may be written to.
        drawn: where the generators start.
        nudge: change the parameters by so much of themselves beforehand, to see what rounding can do.
        wide: compute in float64.
        watching: a context in which the forward pass runs.
    """
    with TURN:
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        leaves = [_copy(x) if isinstance(x, Tensor) else x for x in leaves]
        own_args, own_kwargs = pytree.tree_unflatten(leaves, spec)
        given = iter([leaves[i] for i in joint.calling.tensor_in])
        bound = {i.name: i.bound for i in joint.inputs if i.bound is not None}
        tensors = {i.name: bound[i.name] if i.name in bound else next(given) for i in joint.inputs}
        sources = [bound[name] for name in joint.wrt]
        held = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
        now, contents = Generators(program), Contents([*bound.values(), *held])
        gradients = [(t, t.grad) for t in {id(t): t for t in (*held, *sources)}.values() if t.is_leaf]
        drawn.put_back()
        try:
            for tensor, _ in gradients:
                tensor.grad = None
            if nudge:
                _nudge(sources, nudge)
            if wide:
                widen([*held, *tensors.values()])
            others = [x for x in leaves if not isinstance(x, Tensor)]
            with (
                taken_back(program, *others) as changes,
                _ordinary(),
                without_hooks(sources),
                _precision(wide),
                plainly(),
            ):
                with watching or nullcontext():
                    out = program(*own_args, **own_kwargs)
                loss = next(x for x in pytree.tree_leaves(out) if isinstance(x, Tensor))
                # into .grad: a Function's own backward (a reversible block) may leave gradients there, and nowhere else
                torch.autograd.backward(loss, inputs=sources)
                found = [source.grad for source in sources]
            scratch = {i.name for i in joint.inputs if i.kind == "constant" and i.place is None}
            mutated = {o.name for o in joint.outputs if o.kind == "mutation"} - scratch  # memory that it asks for anew
            mutated |= set() if nudge or wide else contents.changed(bound)
            written = {name: tensors[name].detach().clone() for name in mutated}
        finally:
            for tensor, _ in gradients:
                tensor.grad = None  # before the tensor is again of the dtype it had
            contents.put_back()
            for tensor, gradient in gradients:
                tensor.grad = gradient
            now.put_back()
    left = {(id(c[0].holder), c[1]): Left(c[3], value) for c in changes if (value := number(c[2])) is not None}
    return Results(loss.detach(), dict(zip(joint.wrt, found, strict=True)), written, left)


def _nudge(tensors: Sequence[Tensor], share: float) -> None:
    """Multiply every element by 1 ± ``share`` at most."""
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors:
        way = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
        tensor.data.mul_((1 + share * way).to(tensor.device, tensor.real.dtype))


def _copy(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor
    return copy_of(tensor).requires_grad_(tensor.requires_grad)


def _precision(wide: bool) -> AbstractContextManager[Any]:
    return Widened() if wide else nullcontext()


@contextmanager
def _ordinary() -> Iterator[None]:
    """Autograd is on, and autocast keeps no casts of parameters for later."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                dtype = torch.get_autocast_dtype(device)
                stack.enter_context(torch.autocast(device, dtype=dtype, cache_enabled=False))
        yield

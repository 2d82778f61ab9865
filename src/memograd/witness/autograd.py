"""The witness: PyTorch runs the program itself, forward and ``torch.autograd``, and nothing remembers that it did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memograd._torch import copy_of, is_lent, pytree, redirected, without_hooks
from memograd.graph.graph import Graph
from memograd.tracing.holders import noted
from memograd.tracing.under_way import TURN, plainly
from memograd.tracing.undisturbed import Contents, Generators, taken_back
from memograd.witness.agreement import Left, Results, number
from memograd.witness.reentry import leaves_to_go_to
from memograd.witness.widened import Widened, widen

Tensor = torch.Tensor
Derived = tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]


class _Witnessing(threading.local):
    depth = 0


_WITNESSING = _Witnessing()


def witnessing() -> bool:
    """True in a run of the witness, in which nothing of ours may take part: transforms are PyTorch's then."""
    return _WITNESSING.depth > 0


def of_the_loss(out: Any, sources: Mapping[str, Tensor]) -> Derived:
    """The first tensor of what a program returns and its gradients. They go into ``.grad``: a Function's own backward
    (a reversible block) may leave gradients there, and nowhere else."""
    loss = next(x for x in pytree.tree_leaves(out) if isinstance(x, Tensor))
    once = {id(t): t for t in (*sources.values(), *leaves_to_go_to([loss]))}
    torch.autograd.backward(loss, inputs=list(once.values()))
    return loss, {name: _dense(source.grad) for name, source in sources.items()}, {}


def _dense(gradient: Tensor | None) -> Tensor | None:
    """As ours are (``nn.Embedding(sparse=True)``)."""
    return gradient if gradient is None or gradient.layout is torch.strided else gradient.to_dense()


def by_autograd(
    program: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    joint: Graph,
    drawn: Generators,
    nudge: float = 0.0,
    wide: bool = False,
    watching: Any = None,
    moved: Mapping[str, Tensor] | None = None,
    derive: Callable[[Any, Mapping[str, Tensor]], Derived] = of_the_loss,
) -> Results:
    """Loss, gradients and writes of ``program(*args, **kwargs)`` by PyTorch. Afterwards everything is as it was.

    Args:
        joint: a graph of the program; it names what is differentiated and what may be written to.
        drawn: where the generators start.
        nudge: change the parameters by so much of themselves beforehand, to see what rounding can do.
        wide: compute in float64.
        watching: a context in which the forward pass runs.
        moved: what is added to inputs beforehand, by name.
        derive: what the program returns and what is differentiated become the loss, the gradients, other results.
    """
    with TURN:
        here = _Operands.of(program, args, kwargs, joint)
        states = getattr(joint.guards, "states", None)  # generators from elsewhere that it draws from, and such
        with _as_before(program, states, here) as contents, drawn.again(), redirected():
            if states is not None:
                states.put_back()
            here.change(nudge, wide, moved or {})
            handed = _handed(here.leaves, here.sources, {*map(id, here.bound.values())})
            own_args, own_kwargs = pytree.tree_unflatten(handed, here.spec)
            others = [x for x in here.leaves if not isinstance(x, Tensor)]
            with (
                taken_back(program, *others) as changes,
                _ordinary(),
                without_hooks(here.sources),
                _wide(wide),
                plainly(),
            ):
                with watching or nullcontext():
                    out = program(*own_args, **own_kwargs)
                loss, gradients, results = derive(out, dict(zip(joint.wrt, here.sources, strict=True)))
            mutated = _mutated(joint)
            mutated |= set() if nudge or wide or moved else contents.changed(here.own_memory())
            after = dict(zip(map(id, here.leaves), handed, strict=True))
            written = {n: after.get(id(here.tensors[n]), here.tensors[n]).detach().clone() for n in mutated}
    left = {(id(c[0].holder), c[1]): Left(c[3], value) for c in changes if (value := number(c[2])) is not None}
    return Results(loss.detach(), gradients, written, left, results)


@dataclass(frozen=True)
class _Operands:
    """What the program runs on.

    Attributes:
        leaves, spec: copies of the arguments.
        bound: the tensors that the graph is bound to, by name; ``tensors``: every input of it.
        sources: those that are differentiated.
        own: the program's parameters and buffers.
    """

    leaves: list[Any]
    spec: Any
    bound: dict[str, Tensor]
    tensors: dict[str, Tensor]
    sources: list[Tensor]
    own: list[Tensor]

    @classmethod
    def of(cls, program: Any, args: Sequence[Any], kwargs: Mapping[str, Any], joint: Graph) -> _Operands:
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        once = {id(x): _copy(x) for x in leaves if isinstance(x, Tensor)}
        once |= {id(leaves[k]): leaves[k] for k, _ in getattr(joint.guards, "given", ())}
        copy = (lambda x: once[id(x)]) if joint.calling.united else _copy
        leaves = [copy(x) if isinstance(x, Tensor) else x for x in leaves]
        arguments = iter([leaves[i] for i in joint.calling.tensor_in])
        bound = {i.name: i.bound for i in joint.inputs if i.bound is not None}
        tensors = {i.name: bound[i.name] if i.name in bound else next(arguments) for i in joint.inputs}
        own = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
        return cls(leaves, spec, bound, tensors, [tensors[name] for name in joint.wrt], own)

    def own_memory(self) -> dict[str, Tensor]:
        """Those of ``bound`` that do not look at an array of NumPy's: who writes to that changes the array, which a run
        leaves."""
        return {name: t for name, t in self.bound.items() if not is_lent(t)}

    def change(self, nudge: float, wide: bool, moved: Mapping[str, Tensor]) -> None:
        """As ``by_autograd`` is asked to, before the program runs."""
        if nudge:
            nudged(self.sources, nudge)
        if wide:
            widen([*self.own, *self.tensors.values()])
        for name, step in moved.items():
            self.tensors[name].data.add_(step)


@contextmanager
def _as_before(program: Any, states: Any, here: _Operands) -> Iterator[Contents]:
    """Generators, what tensors hold and their ``.grad`` are afterwards as they were; inside no leaf has a ``.grad``."""
    now, contents = Generators(program, states), Contents([*here.bound.values(), *here.own])
    leaves = {id(t): t for t in (*here.own, *here.bound.values(), *here.sources) if t.is_leaf}
    gradients = [(t, t.grad) for t in leaves.values()]
    try:
        for tensor, _ in gradients:
            tensor.grad = None
        yield contents
    finally:
        for tensor, _ in gradients:
            tensor.grad = None  # before the tensor is again of the dtype it had
        contents.put_back()
        for tensor, gradient in gradients:
            tensor.grad = gradient
        now.put_back_others()


def _mutated(joint: Graph) -> frozenset[str]:
    """The inputs that the graph writes to, without memory that the program asks for anew at each call."""
    scratch = {i.name for i in joint.inputs if i.kind == "constant" and i.place is None}
    return joint.written - scratch


class _Passed(torch.autograd.Function):
    """A copy in the same strides that leads back to the tensor; no leaf, so that a program may write to it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return copy_of(tensor)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> Any:
        return adjoints[0]


def passed(tensor: Tensor) -> Tensor:
    """A variable of its own for ``tensor``, which depends on it."""
    with torch.enable_grad():
        return _Passed.apply(tensor)  # pyright: ignore[reportReturnType]


def _handed(leaves: Sequence[Any], sources: Sequence[Tensor], bound: set[int]) -> list[Any]:
    """The leaves with what a program may write to in the place of those that are differentiated, if they are not what
    it is ``bound`` to."""
    differentiated = {id(s) for s in sources} - bound
    return [noted(passed(x.requires_grad_()), x) if id(x) in differentiated else x for x in leaves]


def nudged(tensors: Sequence[Tensor], share: float) -> None:
    """Multiply every element by 1 ± ``share`` at most."""
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors:
        way = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
        tensor.data.mul_((1 + share * way).to(tensor.device, tensor.real.dtype))


def _copy(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor
    return noted(copy_of(tensor).requires_grad_(tensor.requires_grad), tensor)


def _wide(wide: bool) -> AbstractContextManager[Any]:
    return Widened() if wide else nullcontext()


@contextmanager
def _witness() -> Iterator[None]:
    _WITNESSING.depth += 1
    try:
        yield
    finally:
        _WITNESSING.depth -= 1


@contextmanager
def _ordinary() -> Iterator[None]:
    """Autograd is on, autocast keeps no casts of parameters for later, transforms are PyTorch's."""
    with ExitStack() as stack:
        stack.enter_context(_witness())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                dtype = torch.get_autocast_dtype(device)
                stack.enter_context(torch.autocast(device, dtype=dtype, cache_enabled=False))
        yield

"""Operators tried out, each on inputs made up for it: parameters and buffers are the step's own, the rest is invented.

Some inputs cannot be invented (pivots, saved statistics, a kernel's own workspace): those are made by running the
kernel that makes them in the step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx

from memograd._torch import pytree
from memograd.draws import rng_state
from memograd.errors import MemogradError, PlanViolationError
from memograd.graph.bindings import callable_of
from memograd.graph.kernels import Kernel
from memograd.memory.costs.tensors import bytes_of, device_of, taken

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """An operator with inputs made up for it: ``run`` runs it once, ``sizes`` are the bytes of what it returned."""

    run: Callable[[], Any]
    sizes: Callable[[Any], tuple[int, ...]]

    def __call__(self) -> tuple[int, ...]:
        return self.sizes(self.run())


Prepare = Callable[[bool], Trial]  # makes up the inputs; if asked to, those that come of kernels by running these

UNLIKE: dict[Any, str] = {}  # forms of operators whose results are not what graphs say of them, and how


def called(node: fx.Node, bound: dict[fx.Node, torch.Tensor], whole: int = 0) -> Prepare:
    """Trials of the operator ``node``.

    Args:
        bound: the tensors that placeholders stand for.
        whole: bytes of the first operand's storage, where they matter.
    """

    def prepare(run: bool) -> Trial:
        stand_ins = {n: _operand(n, bound, whole if n is node.args[0] else 0, run) for n in node.all_input_nodes}
        operands: Any = fx.map_arg((node.args, node.kwargs), stand_ins.__getitem__)
        args, kwargs = operands
        target: Any = callable_of(node)  # with the overhead it will have
        if isinstance(target, Kernel):  # what it does at its first call only (tuning) is no part of a step
            attempt(lambda: target(*args))

        def sizes(out: Any) -> tuple[int, ...]:
            _check_memory(node, out, stand_ins.values())
            if unlike := _unlike(out, node.meta["val"]):
                UNLIKE[form(node), whole] = unlike
            return _result_bytes(out, node.meta["val"])

        return Trial(lambda: target(*args, **kwargs), sizes)

    return prepare


def written(node: fx.Node) -> Prepare:
    """Trials of the copy of ``node``'s value into an input."""

    def prepare(_: bool) -> Trial:
        new, old = _invent(node.meta["val"]), _invent(node.meta["val"])
        return Trial(lambda: old.copy_(new), lambda _: ())

    return prepare


def saved_state(node: fx.Node) -> Prepare:
    """Trials of the saving of the generator's state that ``node`` draws from."""
    device = device_of(node)
    assert device is not None, f"no state was to be saved for {node.name}"
    return lambda _: Trial(lambda: rng_state(device), lambda state: (state.nbytes,))


def form(node: fx.Node) -> Any:
    """What an operator's cost depends on: its target, the literal arguments, the geometry of the tensors."""
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    return (node.target, str(spec), tuple(_leaf(x) for x in leaves))


def _leaf(leaf: Any) -> Any:
    return geometry(leaf.meta["val"]) if isinstance(leaf, fx.Node) else repr(leaf)


def geometry(value: Any) -> Any:
    """The same of a value."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), tuple(value.stride()), str(value.device))
    return tuple(geometry(v) for v in value) if isinstance(value, Sequence) else repr(value)


def attempt(call: Callable[[], T]) -> T | None:
    """None where made-up data does not suit an operator (a matrix that is not positive definite)."""
    try:
        return call()
    except MemogradError:
        raise
    except Exception:
        return None


def _operand(node: fx.Node, bound: dict[fx.Node, torch.Tensor], whole: int, run: bool) -> Any:
    """A tensor to measure a reader of ``node`` with; ``run`` the kernel that makes it where it is one of several."""
    if node in bound:
        return bound[node]
    value = node.meta["val"]
    # how large an empty one is may be the kernel's secret: the workspace of oneDNN's LSTM
    if node.target is operator.getitem and (run or (isinstance(value, torch.Tensor) and not value.numel())):
        origin: Any = node.args[0]
        args, kwargs = fx.map_arg((origin.args, origin.kwargs), lambda n: _operand(n, bound, 0, run))
        results = attempt(lambda: origin.target(*args, **kwargs))
        if results is not None:
            return results[node.args[1]]
    return _invent(value, whole)


def _invent(value: Any, whole: int = 0) -> Any:
    """A real tensor of the form of a fake one, in a storage of at least ``whole`` bytes: zeros (also valid indices) for
    integers, else numbers in [½, 1)."""
    if not isinstance(value, torch.Tensor):
        return pytree.tree_map(_invent, value) if isinstance(value, (tuple, list)) else value
    extent = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
    extent = max(extent, whole // value.element_size())
    flat = torch.zeros(extent, dtype=value.dtype, device=value.device)
    if flat.is_floating_point():
        flat.uniform_(0.5, 1, generator=torch.Generator(value.device))  # the others are the user's
    elif flat.is_complex():
        flat.fill_(0.75)
    return flat.as_strided(value.shape, value.stride())


def _check_memory(node: fx.Node, out: Any, inputs: Iterable[Any]) -> None:
    """Raise PlanViolationError for an operator whose results are not the new storages that the plan counts."""
    addresses = {t.untyped_storage().data_ptr() for t in inputs if isinstance(t, torch.Tensor) and t.numel()}
    for result in _results(out):
        if isinstance(result, torch.Tensor) and result.numel():
            address = result.untyped_storage().data_ptr()
            if address in addresses:
                raise PlanViolationError(
                    f"{node.target} returns memory of another tensor, and its schema does not say so: no byte budget "
                    "can be promised for this step. Let the operator return a clone, or declare the alias in its schema"
                )
            addresses.add(address)


def _unlike(out: Any, expected: Any) -> str:
    """How results differ from what a graph says of them, in what a compiled kernel takes for granted."""
    for result, like in zip(_results(out), _results(expected), strict=True):
        if isinstance(result, torch.Tensor) and isinstance(like, torch.Tensor) and result.shape == like.shape:
            steps = [(a, b) for n, a, b in zip(result.shape, result.stride(), like.stride(), strict=True) if n > 1]
            if result.dtype != like.dtype or (result.numel() and any(a != b for a, b in steps)):
                return f"{result.dtype} {result.stride()} for {like.dtype} {like.stride()}"
    return ""


def _result_bytes(out: Any, expected: Any) -> tuple[int, ...]:
    """Bytes of each result that the graph knows as a tensor; 0 where the kernel made none. Kernels may make more than
    the graph says (oneDNN's LSTM); where they made less that was because of the made-up data (CTC's lengths)."""
    pairs = zip(_results(out), _results(expected), strict=True)
    return tuple(_allocated(t, known) for t, known in pairs if isinstance(known, torch.Tensor))


def _allocated(result: Any, known: torch.Tensor) -> int:
    if not isinstance(result, torch.Tensor):
        return 0
    return max(bytes_of(known), bytes_of(result), taken(result.untyped_storage().nbytes(), result.device))


def _results(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def feeds_kernel(node: fx.Node) -> bool:
    """Whether a compiled kernel reads a node's results, or what follows from them: strides are handed on."""
    readers, visited = [*node.users], set()
    while readers:
        reader = readers.pop()
        if isinstance(reader.target, Kernel):
            return True
        if reader not in visited:
            visited.add(reader)
            readers += reader.users
    return False

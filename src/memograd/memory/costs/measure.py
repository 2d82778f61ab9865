"""What one operator costs: seconds, workspace and result bytes, measured once on the device it will run on.

Operators with the same target, the same literal arguments and the same geometry of tensors are measured once in a
process. They run on made-up data (parameters excepted); an operator that refuses such data gets a modelled cost.
"""

from __future__ import annotations

import json
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import fx
from torch.profiler import ProfilerActivity, profile, record_function

from memograd import clock
from memograd._torch import pytree
from memograd.draws import rng_state, same_draws
from memograd.errors import BackendError, MemogradError, PlanViolationError
from memograd.graph.bindings import callable_of
from memograd.graph.kernels import Kernel
from memograd.graph.views import copies_storage, tensors_of
from memograd.memory.costs.storages import Operator, Storages
from memograd.memory.costs.tensors import bytes_of, device_of

_ENOUGH = 0.02  # seconds of repetitions for one operator
_TRIALS = 10


@dataclass(frozen=True)
class Measurement:
    """One run of an operator: ``seconds``, ``workspace`` bytes besides inputs and results, and the bytes of each
    result. ``modelled`` when it was not measured."""

    seconds: float
    workspace: int
    results: tuple[int, ...]
    modelled: bool = False


T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """An operator with inputs made up for it: ``run`` runs it once, ``sizes`` are the bytes of what it returned."""

    run: Callable[[], Any]
    sizes: Callable[[Any], tuple[int, ...]]

    def __call__(self) -> tuple[int, ...]:
        return self.sizes(self.run())


Prepare = Callable[[bool], Trial]  # makes up the inputs; if asked to, those that come of kernels by running these
Calls = dict[Any, Callable[[], Trial]]
Memory = Callable[[Calls], dict[Any, tuple[int, tuple[int, ...]]]]

_CACHE: dict[Any, Measurement] = {}
_UNLIKE: dict[Any, str] = {}  # operators whose results are not what graphs say of them, and how


def measure(storages: Storages) -> list[Measurement]:
    """A measurement of each operator. Needs memory for the inputs and results of one operator at a time."""
    bound = {
        node: entry.tensor.detach()
        for node, entry in zip(storages.graph.placeholders, storages.graph.inputs, strict=True)
        if entry.tensor is not None
    }
    wanted: dict[bool, dict[Any, Prepare]] = {False: {}, True: {}}  # on the CPU, on CUDA devices
    keys: list[Any] = []
    for k, o in enumerate(storages.operators):
        if o.saves:
            form, prepare = ("state", device_of(o.node)), _save(o.node)
        elif o.into is not None:
            form, prepare = ("write", _geometry(o.node.meta["val"])), _write(o.node)
        else:
            whole = storages.sizes[storages.outputs[k][0]] if copies_storage(o.node) else 0
            form, prepare = (_key(o.node), whole), _call(o.node, bound, whole)
        key = (form, torch.get_num_threads())
        keys.append(key)
        if key not in _CACHE:
            wanted[_on_cuda(o.node)].setdefault(key, prepare)
    # as backends run: oneDNN's LSTM keeps its workspace only where gradients are enabled
    with torch.enable_grad(), same_draws():
        _measure(wanted[False], _cpu_memory)
        _measure(wanted[True], _cuda_memory)
    for o, (form, _) in zip(storages.operators, keys, strict=True):
        if form in _UNLIKE and feeds_kernel(o.node):
            raise BackendError(
                f"{o.node.target} returns another dtype or other strides than PyTorch says ({_UNLIKE[form]}), and a "
                "kernel was compiled for what it says"
            )
    found = [_CACHE.get(k) for k in keys]
    return [m or _modelled(o) for m, o in zip(found, storages.operators, strict=True)]


def _on_cuda(node: fx.Node) -> bool:
    return any(t.is_cuda for n in (node, *node.all_input_nodes) for t in tensors_of(n))


def _measure(wanted: dict[Any, Prepare], memory: Memory) -> None:
    for run in (False, True):  # pivots, or saved statistics: what only another kernel can make up
        calls = {key: partial(prepare, run) for key, prepare in wanted.items() if key not in _CACHE}
        for key, (workspace, results) in memory(calls).items() if calls else ():
            _CACHE[key] = Measurement(clock.seconds(calls[key]().run, _TRIALS, _ENOUGH), workspace, results)


def _cpu_memory(calls: Calls) -> dict[Any, tuple[int, tuple[int, ...]]]:
    """(workspace, bytes of each result) of every call: PyTorch's profiler sees each allocation."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports every start and stop on stderr
    results: list[tuple[int, ...] | None] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        for prepare in calls.values():
            call = prepare()
            with record_function("memograd operator"):
                results.append(_attempt(call))
            del call
    found = zip(calls, _peaks(watched), results, strict=True)
    return {k: (max(0, peak - sum(r)), r) for k, peak, r in found if r is not None}


def _attempt(call: Callable[[], T]) -> T | None:
    """None where made-up data does not suit an operator (a matrix that is not positive definite)."""
    try:
        return call()
    except MemogradError:
        raise
    except Exception:
        return None


def _peaks(watched: profile) -> list[int]:
    """The most bytes allocated at once inside each marked range, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    ranges = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "memograd operator")
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peaks, at = [], 0
    for start, stop in ranges:
        live = peak = 0
        while at < len(changes) and changes[at][0] <= stop:
            if changes[at][0] >= start:
                live += changes[at][1]
                peak = max(peak, live)
            at += 1
        peaks.append(peak)
    return peaks


def _cuda_memory(calls: Calls) -> dict[Any, tuple[int, tuple[int, ...]]]:
    """The same of the allocator's own statistics."""
    found = {key: _attempt(lambda p=prepare: _cuda_peak(p())) for key, prepare in calls.items()}
    return {key: m for key, m in found.items() if m is not None}


def _cuda_peak(call: Trial) -> tuple[int, tuple[int, ...]]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call()
    torch.cuda.synchronize()
    return max(0, torch.cuda.max_memory_allocated() - before - sum(results)), results


def _tensors(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _result_bytes(out: Any, expected: Any) -> tuple[int, ...]:
    """Bytes of each result that the graph knows as a tensor; 0 where the kernel made none. Kernels may make more than
    the graph says (oneDNN's LSTM); where they made less that was because of the made-up data (CTC's lengths)."""
    found = zip(_tensors(out), _tensors(expected), strict=True)
    return tuple(_allocated(t, known) for t, known in found if isinstance(known, torch.Tensor))


def _allocated(made: Any, known: torch.Tensor) -> int:
    if not isinstance(made, torch.Tensor):
        return 0
    return max(bytes_of(known), bytes_of(made), made.untyped_storage().nbytes())


def _modelled(what: Operator) -> Measurement:
    made, write = tensors_of(what.node), what.into is not None
    read = [t for n in what.node.all_input_nodes for t in tensors_of(n)]
    traffic = sum(map(bytes_of, made)) + sum(map(bytes_of, read))
    results = () if write else tuple(map(bytes_of, made))
    # nothing is known of its workspace: as much as it touches is what the worst kernels take
    seconds = clock.modelled(traffic, device=made[0].device.type if made else "cpu")
    return Measurement(seconds, 0 if write else traffic, results, modelled=True)


# -- operators on made-up data ---------------------------------------------------------------------------------------


def _call(node: fx.Node, bound: dict[fx.Node, torch.Tensor], whole: int = 0) -> Prepare:
    """``whole``: bytes of the first operand's storage, where they matter."""

    def prepare(run: bool) -> Trial:
        made = {n: _operand(n, bound, whole if n is node.args[0] else 0, run) for n in node.all_input_nodes}
        operands: Any = fx.map_arg((node.args, node.kwargs), made.__getitem__)
        args, kwargs = operands
        target: Any = callable_of(node)  # with the overhead it will have
        if isinstance(target, Kernel):  # what it does at its first call only (tuning) is no part of a step
            _attempt(lambda: target(*args))

        def sizes(out: Any) -> tuple[int, ...]:
            _check_memory(node, out, made.values())
            if unlike := _unlike(out, node.meta["val"]):
                _UNLIKE[_key(node), whole] = unlike
            return _result_bytes(out, node.meta["val"])

        return Trial(lambda: target(*args, **kwargs), sizes)

    return prepare


def _operand(node: fx.Node, bound: dict[fx.Node, torch.Tensor], whole: int, run: bool) -> Any:
    """A tensor to measure a reader of ``node`` with; ``run`` the kernel that makes it where it is one of several."""
    if node in bound:
        return bound[node]
    value = node.meta["val"]
    # how large an empty one is may be the kernel's secret: the workspace of oneDNN's LSTM
    if node.target is operator.getitem and (run or (isinstance(value, torch.Tensor) and not value.numel())):
        origin: Any = node.args[0]
        args, kwargs = fx.map_arg((origin.args, origin.kwargs), lambda n: _operand(n, bound, 0, run))
        results = _attempt(lambda: origin.target(*args, **kwargs))
        if results is not None:
            return results[node.args[1]]
    return _invent(value, whole)


def _check_memory(node: fx.Node, out: Any, inputs: Iterable[Any]) -> None:
    """Raise PlanViolationError for an operator whose results are not the new storages that the plan counts."""
    seen = {t.untyped_storage().data_ptr() for t in inputs if isinstance(t, torch.Tensor) and t.numel()}
    for result in _tensors(out):
        if isinstance(result, torch.Tensor) and result.numel():
            address = result.untyped_storage().data_ptr()
            if address in seen:
                raise PlanViolationError(
                    f"{node.target} returns memory of another tensor, and its schema does not say so: no byte budget "
                    "can be promised for this step. Let the operator return a clone, or declare the alias in its schema"
                )
            seen.add(address)


def _unlike(out: Any, expected: Any) -> str:
    """How results differ from what a graph says of them, in what a compiled kernel takes for granted."""
    for made, said in zip(_tensors(out), _tensors(expected), strict=True):
        if isinstance(made, torch.Tensor) and isinstance(said, torch.Tensor) and made.shape == said.shape:
            steps = [(a, b) for n, a, b in zip(made.shape, made.stride(), said.stride(), strict=True) if n > 1]
            if made.dtype != said.dtype or (made.numel() and any(a != b for a, b in steps)):
                return f"{made.dtype} {made.stride()} for {said.dtype} {said.stride()}"
    return ""


def feeds_kernel(node: fx.Node) -> bool:
    """Whether a compiled kernel reads a node's results, or what follows from them: strides are handed on."""
    readers, seen = [*node.users], set()
    while readers:
        reader = readers.pop()
        if isinstance(reader.target, Kernel):
            return True
        if reader not in seen:
            seen.add(reader)
            readers += reader.users
    return False


def _write(node: fx.Node) -> Prepare:
    def prepare(_: bool) -> Trial:
        new, old = _invent(node.meta["val"]), _invent(node.meta["val"])
        return Trial(lambda: old.copy_(new), lambda _: ())

    return prepare


def _save(node: fx.Node) -> Prepare:
    device = device_of(node)
    assert device is not None, f"no state was to be saved for {node.name}"
    return lambda _: Trial(lambda: rng_state(device), lambda state: (state.nbytes,))


def _invent(value: Any, whole: int = 0) -> Any:
    """A real tensor of the form of a fake one, in a storage of at least ``whole`` bytes: zeros (also valid indices) for
    integers, else numbers in [½, 1)."""
    if not isinstance(value, torch.Tensor):
        return pytree.tree_map(_invent, value) if isinstance(value, (tuple, list)) else value
    extent = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
    extent = max(extent, whole // value.element_size())
    flat = torch.zeros(extent, dtype=value.dtype, device=value.device)
    if flat.is_floating_point() or flat.is_complex():
        flat.uniform_(0.5, 1) if flat.is_floating_point() else flat.fill_(0.75)
    return flat.as_strided(value.shape, value.stride())


def _key(node: fx.Node) -> Any:
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    return (node.target, str(spec), tuple(_leaf(x) for x in leaves))


def _leaf(leaf: Any) -> Any:
    return _geometry(leaf.meta["val"]) if isinstance(leaf, fx.Node) else repr(leaf)


def _geometry(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), tuple(value.stride()), str(value.device))
    return tuple(_geometry(v) for v in value) if isinstance(value, Sequence) else repr(value)

"""What one operator costs: seconds, workspace and result bytes, measured once on the device it will run on.

Operators with the same target, the same literal arguments and the same geometry of tensors are measured once in a
process. They run on made-up data (parameters excepted); an operator that refuses such data gets a modelled cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx

from memograd import as_written, clock
from memograd.draws import timed
from memograd.errors import BackendError
from memograd.graph.views import copies_storage, tensors_of
from memograd.memory.costs.allocations import memory
from memograd.memory.costs.storages import Operator, Storages
from memograd.memory.costs.tensors import bytes_of, device_of
from memograd.memory.costs.trials import UNLIKE, Prepare, called, feeds_kernel, form, geometry, saved_state, written
from memograd.ops import is_random

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


_CACHE: dict[Any, Measurement] = {}


def measure(storages: Storages) -> list[Measurement]:
    """A measurement of each operator. Needs memory for the inputs and results of one operator at a time."""
    bound = {
        node: entry.tensor.detach()
        for node, entry in zip(storages.graph.placeholders, storages.graph.inputs, strict=True)
        if entry.tensor is not None
    }
    trials: dict[str, dict[Any, Prepare]] = {}  # by device
    keys: list[Any] = []
    for k, o in enumerate(storages.operators):
        what, prepare = _trial(storages, k, bound)
        key = (what, torch.get_num_threads())
        keys.append(key)
        if key not in _CACHE:
            trials.setdefault(_device(o.node), {}).setdefault(key, prepare)
    # as backends run: oneDNN's LSTM keeps its workspace only where gradients are enabled
    draws = any(is_random(o.node) for o in storages.operators)  # what draws nothing moves no generator of others
    with torch.enable_grad(), timed(draws):
        for device, calls in trials.items():
            _measure(calls, device)
    for o, (what, _) in zip(storages.operators, keys, strict=True):
        if what in UNLIKE and feeds_kernel(o.node):
            raise BackendError(
                f"{o.node.target} returns another dtype or other strides than PyTorch says ({UNLIKE[what]}), and a "
                "kernel was compiled for what it says"
            )
    measurements = [_CACHE.get(k) or _modelled(o) for k, o in zip(keys, storages.operators, strict=True)]
    for k, state in storages.states.items():  # where the generator stands is asked, too, behind the draw
        workspace = max(measurements[k].workspace, storages.sizes[state])
        measurements[k] = replace(measurements[k], workspace=workspace)
    return measurements


def _trial(storages: Storages, k: int, bound: dict[fx.Node, torch.Tensor]) -> tuple[Any, Prepare]:
    """What decides the cost of the operator ``k``, and how runs of it are prepared.

    Raises:
        BackendError: it calls code of the user's.
    """
    o = storages.operators[k]
    if o.node.target is as_written.call:
        number: Any = o.node.args[1]
        name = as_written.code_of(number).name
        raise BackendError(f"no plan within a memory budget: {name}, and nobody can say what it allocates")
    if o.saves:
        return ("state", device_of(o.node)), saved_state(o.node)
    if o.into is not None:
        return ("write", geometry(o.node.meta["val"])), written(o.node)
    whole = storages.sizes[storages.outputs[k][0]] if copies_storage(o.node) else 0
    return (form(o.node), whole), called(o.node, bound, whole)


def _device(node: fx.Node) -> str:
    """Where an operator runs: on an accelerator if one of its tensors lies there."""
    devices = [t.device for n in (node, *node.all_input_nodes) for t in tensors_of(n)]
    return str(next((d for d in devices if d.type != "cpu"), "cpu"))


def _measure(trials: dict[Any, Prepare], device: str) -> None:
    for run in (False, True):  # pivots, or saved statistics: what only another kernel can make up
        calls = {key: partial(prepare, run) for key, prepare in trials.items() if key not in _CACHE}
        for key, (workspace, results) in memory(calls, device).items() if calls else ():
            _CACHE[key] = Measurement(clock.seconds(calls[key]().run, _TRIALS, _ENOUGH), workspace, results)


def _modelled(what: Operator) -> Measurement:
    written, write = tensors_of(what.node), what.into is not None
    read = [t for n in what.node.all_input_nodes for t in tensors_of(n)]
    traffic = sum(map(bytes_of, written)) + sum(map(bytes_of, read))
    results = () if write else tuple(map(bytes_of, written))
    # nothing is known of its workspace: as much as it touches is what the worst kernels take
    seconds = clock.modelled(traffic, device=written[0].device.type if written else "cpu")
    return Measurement(seconds, 0 if write else traffic, results, modelled=True)

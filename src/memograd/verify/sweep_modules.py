"""Whole modules against PyTorch's own test database (ModuleInfo, ``torch.testing``'s ``module_db``).

Every sample of every ``nn.Module`` in train and in eval mode: gradients of all parameters and of all floating-point
inputs, by ``mg.capture`` and ``mg.differentiate`` as a user would call them, against ``torch.autograd`` with the same
random cotangents; the buffers afterwards too. A module that needs values, and the second order, go through ``mg.vjp``.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from memograd._torch import pytree
from memograd.errors import DataDependentError, MemogradError
from memograd.pipeline import capture, differentiate
from memograd.transforms.check import check_transforms
from memograd.transforms.vjp import vjp
from memograd.verify.sweep import TOLERANCE, Tally, by_autograd, compare

Tensor = torch.Tensor

_SEED = 12345


def entries(dtype: torch.dtype = torch.float64, order: int = 1) -> list[Any]:
    """The modules of module_db that autograd differentiates in ``dtype`` on the CPU."""
    from torch.testing._internal.common_modules import module_db  # needs the package expecttest

    infos = [info for info in module_db if dtype in info.supported_dtypes("cpu")]
    return [info for info in infos if order == 1 or info.supports_gradgrad]


def sweep(
    infos: Iterable[Any],
    training: bool,
    dtype: torch.dtype = torch.float64,
    order: int = 1,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[Tally]:
    """One tally for each module in the given mode; ``limit`` samples of each at most, drawn by ``seed``."""
    for info in infos:
        torch.manual_seed(seed)
        tally = Tally(f"{info.name} {'train' if training else 'eval'}")
        for case in cases(info, training, dtype, limit, seed):
            _count(tally, case, order, dtype)
        yield tally


def cases(info: Any, training: bool, dtype: torch.dtype, limit: int | None, seed: int) -> Iterator[Case]:
    """The samples of a module; ``limit`` at most, drawn by ``seed``."""
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    inputs = [i for i in inputs if i.forward_input is not None]
    if limit is not None and len(inputs) > limit:
        inputs = random.Random(f"{seed} {info.name}").sample(inputs, limit)
    for sample in inputs:
        yield _case(info, sample, training, dtype)


@dataclass
class Case:
    """A module with arguments: ``leaves`` of ``(args, kwargs)``, those at ``places`` to be differentiated."""

    module: nn.Module
    leaves: list[Any]
    spec: Any
    places: list[int]

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The user's call, with tensors of its own."""
        leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in self.leaves]
        for place in self.places:
            leaves[place].requires_grad_()
        return pytree.tree_unflatten(leaves, self.spec)

    @property
    def tensors(self) -> list[Tensor]:
        """What is differentiated: the parameters, then inputs."""
        return [*(p.detach() for p in self.module.parameters()), *(self.leaves[i].detach() for i in self.places)]

    def function(self, module: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
        """``module`` as a function of ``tensors`` that returns its floating-point results."""
        names = [name for name, _ in module.named_parameters()]

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            leaves = list(self.leaves)
            for place, tensor in zip(self.places, tensors[len(names) :], strict=True):
                leaves[place] = tensor
            args, kwargs = pytree.tree_unflatten(leaves, self.spec)
            swapped = dict(zip(names, tensors, strict=False))
            return smooth(functional_call(module, swapped, args, kwargs))

        return call


def smooth(results: Any) -> tuple[Tensor, ...]:
    """The floating-point tensors among ``results``."""
    return tuple(o for o in pytree.tree_leaves(results) if isinstance(o, Tensor) and o.is_floating_point())


def _case(info: Any, sample: Any, training: bool, dtype: torch.dtype) -> Case:
    constructor, call = sample.constructor_input, sample.forward_input
    module = info.module_cls(*constructor.args, **constructor.kwargs).to(dtype).train(training)
    if info.is_lazy:  # its parameters get their shapes at the first call
        with torch.no_grad():
            module(*copy.deepcopy(call.args), **copy.deepcopy(call.kwargs))
    leaves, spec = pytree.tree_flatten((tuple(call.args), dict(call.kwargs)))
    leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
    return Case(module, leaves, spec, [i for i, x in enumerate(leaves) if smooth(x)])


def _count(tally: Tally, case: Case, order: int, dtype: torch.dtype) -> None:
    witness = _witness(case, order)
    if witness is None:
        return
    cotangents, theirs, buffers = witness
    module = copy.deepcopy(case.module)
    torch.manual_seed(_SEED)  # random modules draw the same in all runs
    try:
        ours = gradients(case, module, cotangents)
    except Exception as error:
        crash = "" if isinstance(error, MemogradError) else "CRASH "
        tally.refused += 1
        tally.reasons[f"{crash}{type(error).__name__}: {error}"] += 1
        return
    problem = compare(ours, theirs, case.tensors, TOLERANCE[dtype] * 10 ** (2 * (order - 1)))
    if problem is None and order == 1 and not _same(dict(module.named_buffers()), buffers):
        problem = "buffers differ"
    tally.passed += problem is None
    if problem is not None:
        tally.wrong += 1
        tally.reasons[f"WRONG {problem}"] += 1


def _witness(case: Case, order: int) -> Any:
    """(cotangents, gradients by torch.autograd, buffers afterwards), or None where autograd has no gradient.

    Inputs that autograd does not differentiate (the target of ``SoftMarginLoss``) are dropped from ``case.places``.
    """
    for place in [None, *reversed(case.places)]:
        if place is not None:
            case.places = [p for p in case.places if p != place]
        module = copy.deepcopy(case.module)
        torch.manual_seed(_SEED)
        try:
            results = by_autograd(case.function(module), [t.clone() for t in case.tensors], order)
        except (RuntimeError, NotImplementedError):
            continue
        return results and (*results, dict(module.named_buffers()))
    return None


def gradients(case: Case, module: nn.Module, cotangents: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Ours, of the order that the number of cotangents says."""
    if len(cotangents) == 1:
        try:
            return _by_graph(case, module, cotangents[0])
        except DataDependentError:
            pass
    function = case.function(module)
    for seeds in cotangents[:-1]:
        function = _pulled(function, seeds)
    with check_transforms(False):  # what is wrong is to be counted, not raised
        return list(vjp(function, *case.tensors)[1](cotangents[-1]))


def _pulled(function: Callable[..., Any], seeds: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *at: vjp(function, *at)[1](seeds)


def _by_graph(case: Case, module: nn.Module, cotangents: tuple[Tensor, ...]) -> list[Tensor]:
    """As a user would ask for them."""
    args, kwargs = case.arguments

    def loss(*args: Any, **kwargs: Any) -> Any:
        outs = smooth(module(*args, **kwargs))
        return torch.stack([(o * c).sum() for o, c in zip(outs, cotangents, strict=True)]).sum()

    graph = capture(loss, *args, **kwargs)
    inputs = [i.name for i in graph.inputs if i.kind == "input"]
    names = [next(i.name for i in graph.inputs if i.tensor is p) for p in module.parameters()]
    names += [inputs[graph.calling.tensor_in.index(place)] for place in case.places]
    gradients = differentiate(graph, names)(*args, **kwargs)[1]
    return [
        torch.zeros_like(x) if gradients[n] is None else gradients[n] for n, x in zip(names, case.tensors, strict=True)
    ]


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[k].double(), theirs[k].double()) for k in ours)

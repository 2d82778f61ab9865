"""What keeping a module in float32 does to the gradient: the step is captured again with autocast off inside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from memograd._torch import pytree
from memograd.doctor.patient import Patient, norm, tensors, wide
from memograd.doctor.wider import Wider
from memograd.ops import is_random

HALF = (torch.float16, torch.bfloat16)
_TRIED = 6  # modules, each of which costs another capture


def trials(
    patient: Patient, wider: Wider, error: Callable[[Patient], float], look_again: Callable[[], Patient]
) -> dict[str, float]:
    """The error of the gradient with each of the modules whose rounding matters most in float32, by the module's name;
    ``look_again()`` looks at the step again."""
    program = patient.inspected.program
    if not isinstance(program, nn.Module) or any(is_random(n) for n in patient.graph.nodes):
        return {}  # other kernels draw other masks
    errors: dict[str, float] = {}
    for path in _candidates(patient, wider)[:_TRIED]:
        module = program.get_submodule(path)
        with in_float32([module]):
            try:
                errors[patient.named(path)] = error(look_again())
            except (RuntimeError, TypeError):  # it insists on its precision
                continue
    return errors


def _candidates(patient: Patient, wider: Wider) -> list[str]:
    """Modules that compute in half precision, those first whose errors, times their adjoints, are largest: that is what
    they do to the loss, to first order."""
    program: Any = patient.inspected.program
    modules = {path for path, _ in program.named_modules()}
    weights: dict[str, float] = {}
    for u in patient.nodes:
        path = u.meta.get("module") or ""
        if path in modules and _is_half(u) and u in wider.table:
            value, exact = tensors(patient.values[u]), tensors(wider.values[u])
            apart = norm([wide(a) - wide(b) for a, b in zip(value, exact, strict=True)])
            weights[path] = weights.get(path, 0.0) + apart * norm(wider.table[u])
    inner = [p for p in weights if patient.named(p)]  # not the model as a whole
    return sorted(inner, key=lambda p: -weights[p])


def _is_half(u: fx.Node) -> bool:
    return any(t.dtype in HALF for t in tensors(u.meta["val"]))


@contextmanager
def in_float32(modules: Sequence[nn.Module]) -> Iterator[None]:
    """``modules`` compute in float32 inside, on operands in float32, whatever autocast says."""
    under_way: list[Any] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        devices = {t.device.type for t in (*module.parameters(), *pytree.tree_leaves(args)) if _is_tensor(t)}
        off = torch.autocast(next(iter(devices), "cpu"), enabled=False)
        off.__enter__()
        under_way.append(off)
        return pytree.tree_map_only(torch.Tensor, _float, (args, kwargs))

    def leave(*_: Any) -> None:
        under_way.pop().__exit__(None, None, None)

    handles: list[Any] = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor

"""Derivatives on the device against ``torch.autograd``: programs as people write them, and PyTorch's own samples."""

from __future__ import annotations

import random
import sys
import types
import unittest
from typing import Any

import torch
from on_gpu.machine import Machine, largest
from on_gpu.programs import PROGRAMS, Program
from on_gpu.report import OutOfTime, Report, Skip

import memograd as mg

Tensor = torch.Tensor
TOLERANCE = {(torch.float64, 1): 1e-10, (torch.float64, 2): 1e-9, (torch.float32, 1): 1e-4, (torch.float32, 2): 1e-2}


def programs(report: Report, machine: Machine) -> None:
    """Every program in both precisions, its gradient and the gradient of its gradient's square."""
    for dtype in (torch.float64,) if machine.few else (torch.float64, torch.float32):
        for name, function in machine.some(PROGRAMS, 5).items():
            with report.case(f"{name}, {str(dtype).removeprefix('torch.')}") as case:
                torch.manual_seed(0)
                x, y = (torch.randn(6, 5, dtype=dtype).to(machine.device) for _ in range(2))
                with machine.exact():
                    errors = [_error(function, x, y, order) for order in (1, 2)]
                case.note = "differs by " + " and ".join(f"{e:.1e}" for e in errors)
                case.data["errors"] = errors
                for order, error in enumerate(errors, 1):
                    case.check(error <= TOLERANCE[dtype, order], f"order {order} is wrong")


def _error(function: Program, x: Tensor, y: Tensor, order: int) -> float:
    """The largest difference of a gradient to autograd's."""
    wanted: Program = function if order == 1 else lambda x, y: _squared(mg.grad(function, argnums=(0, 1))(x, y))
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    out = function(*leaves)
    if order == 2:
        out = _squared(_by_autograd(out, leaves, create_graph=True))
    theirs = _by_autograd(out, leaves) if out.requires_grad else [torch.zeros_like(t) for t in leaves]
    ours = mg.grad(wanted, argnums=(0, 1))(x, y)
    return max(largest(a, b.detach()) for a, b in zip(ours, theirs, strict=True))


def _by_autograd(out: Tensor, leaves: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(out, leaves, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def _squared(gradients: Any) -> Tensor:
    return torch.stack([g.square().sum() for g in gradients]).sum()


def operators(report: Report, machine: Machine) -> None:
    """A sample of ``op_db``: one sample input of each entry, in an order drawn at random, as far as time allows."""
    with report.case("op_db is there") as case:
        case.note = _let_op_db_load()
    if case.status != "ok":
        return
    rounds = [(torch.float64, 1, 0.45), (torch.float32, 1, 0.2), (torch.float64, 2, 0.25), (torch.bfloat16, 1, 0.1)]
    whole = report.left()
    for dtype, order, share in rounds[:1] if machine.few else rounds:
        with machine.exact():
            _sample(report, machine, dtype, order, share * whole)


def _let_op_db_load() -> str:
    """``op_db`` lies among PyTorch's tests, which import expecttest for what is not needed here."""
    said = ""
    try:
        import expecttest  # noqa: F401
    except ImportError:
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
        said = "without expecttest"
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        raise Skip(f"it does not load: {error}") from None
    return f"{len(op_db)} entries{', ' + said if said else ''}"


def _sample(report: Report, machine: Machine, dtype: torch.dtype, order: int, seconds: float) -> None:
    import time

    from memograd.verify.sweep import entries, sweep

    ops = entries(dtype, order, machine.device.type)
    random.Random(0).shuffle(ops)
    wanted = ops[:8] if machine.few else ops
    end = time.monotonic() + seconds
    with report.case(f"op_db, {str(dtype).removeprefix('torch.')}, order {order}") as case:
        counts = {"passed": 0, "disputed": 0, "refused": 0, "wrong": 0}
        reasons: dict[str, str] = {}
        case.data |= {"entries": 0, "of": len(ops), "reasons": reasons, "counts": counts}
        for op in wanted:
            if time.monotonic() > end:
                break
            try:
                (tally,) = sweep([op], dtype, order, limit=1, device=str(machine.device))
            except OutOfTime:
                case.note = f"at {op.name}; {case.note}"
                raise
            case.data["entries"] += 1
            for what in counts:
                counts[what] += getattr(tally, what)
            crashed = any(reason.startswith("CRASH") for reason in tally.reasons)
            if tally.wrong or tally.refused:
                reasons[tally.name] = next(iter(tally.reasons))
            case.check(not tally.wrong and not crashed, f"{tally.name}: {reasons.get(tally.name, '')[:200]}")
            if crashed:
                report.settle()  # behind a kernel that failed the device may do nothing any more
        summary = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        case.note = f"{case.data['entries']} of {len(ops)} entries: {summary}" + (f"; {case.note}" if case.note else "")

"""The doctor beside what PyTorch offers, on the zoo of models that do not learn: who finds it, who names its place.

    python benchmarks/doctor.py            # a table; --each prints a line for each model

``anomaly``: ``torch.autograd.detect_anomaly``. ``scan``: what people write: forward hooks that look for outputs which
are not finite or all zero, and parameters whose ``.grad`` is None or zero after ``backward()``; it counts where
it says anything at all. ``doctor``: the kind of finding must be the true one, and it must name the true cause.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "doctor"))

from zoo.sick_gradients import SICK

from memograd.doctor.diagnose import look_into


def loss_of(options: dict[str, Any]) -> torch.Tensor:
    model, args, loss = options["model"], options["args"], options.get("loss")
    return model(*args) if loss is None else loss(model(*args[:-1]), args[-1])


def anomaly(options: dict[str, Any]) -> tuple[bool, bool]:
    try:
        with torch.autograd.detect_anomaly(check_nan=True):
            loss_of(options).backward()
    except RuntimeError as error:
        return "nan" in str(error), False
    return False, False


def scan(options: dict[str, Any]) -> tuple[bool, bool]:
    model: nn.Module = options["model"]
    said: list[str] = []

    def look(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor) and (not out.isfinite().all() or not out.count_nonzero()):
            said.append(next(n for n, m in model.named_modules() if m is module))

    handles = [m.register_forward_hook(look) for m in model.modules()]
    try:
        loss_of(options).backward()
    except RuntimeError as error:
        said.append(str(error))
    for handle in handles:
        handle.remove()
    said += [n for n, p in model.named_parameters() if p.grad is None or not p.grad.count_nonzero()]
    return bool(said), False  # a parameter or a module, never an operator or a line


def doctor(options: dict[str, Any], one: Any) -> tuple[bool, bool]:
    others = dict(options)
    model, args = others.pop("model"), others.pop("args")
    report = look_into(model, args, {}, **others)
    telling = [f for f in report.findings if f.kind == one.kind and f.severity != "note"]
    return bool(telling), any(one.blame in str(f) for f in telling)


def plain(options: dict[str, Any]) -> tuple[bool, bool]:
    with contextlib.suppress(RuntimeError):
        loss_of(options).backward()
    return False, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", action="store_true", help="a line for each model")
    each = parser.parse_args().each
    warnings.simplefilter("ignore")
    tools = {"anomaly": anomaly, "scan": scan, "doctor": doctor, "plain": plain}
    found: dict[str, list[tuple[bool, bool]]] = {name: [] for name in tools}
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for name, one in SICK.items():
        for tool, run in tools.items():
            torch.manual_seed(0)
            options = one.make()
            start = time.process_time()
            found[tool].append(run(options, one) if run is doctor else run(options))  # pyright: ignore
            seconds[tool].append(time.process_time() - start)
        if each:
            print(f"{name:42s} " + "  ".join(f"{t} {'+' if found[t][-1][0] else '-'}" for t in list(tools)[:3]))
    for tool in list(tools)[:3]:
        times = [a / b for a, b in zip(seconds[tool], seconds["plain"], strict=True)]
        right, placed = (sum(f[k] for f in found[tool]) for k in (0, 1))
        print(f"{tool:8s} finds {right} of {len(SICK)}, names the cause {placed}, {median(times):.1f} plain steps")


if __name__ == "__main__":
    main()

"""Who finds NaN and infinity, who names the line, and at what cost: ``watch=True`` beside what PyTorch's users have.

    python benchmarks/find_nan.py [--into docs/doctor.md]

Every program of the zoo (tests/doctor/zoo) trains in plain PyTorch with ``torch.autograd.detect_anomaly``, with forward
hooks that look at each module's result, and with a look at each operator's result (a dispatch mode), and by
``mg.TrainStep`` and in the plain loop with ``mg.wrap``, both watched. A tool is right where it names the line of the
true cause, which the zoo states. The table goes between the two marks in the page.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import memograd as mg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "doctor"))

from zoo.healthy import HEALTHY  # noqa: E402
from zoo.healthy_nan import HEALTHY_NAN  # noqa: E402
from zoo.sick_nan import SICK_NAN, SickNan  # noqa: E402

BEGIN, END = "<!-- find_nan: begin -->", "<!-- find_nan: end -->"


class FoundError(Exception):
    """Somebody has seen a number that is not finite; the text is what is said about it."""


def bad(value: Any) -> bool:
    tensors = [value] if isinstance(value, torch.Tensor) else value if isinstance(value, (tuple, list)) else []
    return any(isinstance(t, torch.Tensor) and t.is_floating_point() and not t.isfinite().all() for t in tensors)


class EachOperator(TorchDispatchMode):
    """Looks at the result of every operator, forward and backward."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not name.startswith(("empty", "isfinite", "all", "eq", "abs", "ne")) and bad(out):
            lines = [f.line or "" for f in traceback.extract_stack() if "zoo" in f.filename]
            raise FoundError(f"{name}: {lines[-1] if lines else ''}")
        return out


def plain_step(model: nn.Module, criterion: Any, optimizer: Any, batch: Any) -> None:
    optimizer.zero_grad()
    loss = criterion(model(*batch[:-1]), batch[-1]) if criterion is not None else model(*batch)
    loss = getattr(loss, "loss", loss)
    loss.backward()
    optimizer.step()


def anomaly(model: nn.Module, criterion: Any, optimizer: Any, batch: Any) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly():
                plain_step(model, criterion, optimizer, batch)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            text = "".join(str(w.message) for w in said)
            lines = re.findall(r'File "[^"]*zoo[^"]*", line \d+, in .*\n\s*(.*)\n', text)
            raise FoundError(f"{error}: {lines[-1] if lines else ''}") from None


def hooks(model: nn.Module, criterion: Any, optimizer: Any, batch: Any) -> None:
    def look(module: nn.Module, args: Any, out: Any) -> None:
        if bad(out):
            raise FoundError(f"module {type(module).__name__}")

    handles = [m.register_forward_hook(look) for m in model.modules()]
    try:
        plain_step(model, criterion, optimizer, batch)
    finally:
        for handle in handles:
            handle.remove()


def operators(model: nn.Module, criterion: Any, optimizer: Any, batch: Any) -> None:
    with EachOperator():
        plain_step(model, criterion, optimizer, batch)


Tool = Callable[..., Callable[[Any], Any]]


def by_plain_step(how: Callable[..., None]) -> Tool:
    def tool(model: nn.Module, criterion: Any, optimizer: Any) -> Callable[[Any], Any]:
        return lambda batch: how(model, criterion, optimizer, batch)

    return tool


def by_train_step(model: nn.Module, criterion: Any, optimizer: Any) -> Callable[[Any], Any]:
    step = mg.TrainStep(model, criterion, optimizer, backend="eager", check="never", watch=True)
    return lambda batch: step(*batch)


def by_wrap(model: nn.Module, criterion: Any, optimizer: Any) -> Callable[[Any], Any]:
    mg.wrap(model, check="never", watch=True)
    return lambda batch: plain_step(model, criterion, optimizer, batch)


TOOLS: dict[str, Tool] = {
    "`TrainStep(watch=True)`": by_train_step,
    "`wrap(watch=True)`": by_wrap,
    "`detect_anomaly`": by_plain_step(anomaly),
    "forward hooks": by_plain_step(hooks),
    "each operator": by_plain_step(operators),
}


def said(tool: Tool, make: Callable[[], Any], lr: float = 0.01, once: bool = False) -> str | None:
    """What a tool says about a program; None where it says nothing."""
    torch.manual_seed(0)
    model, criterion, batches = make()
    parameters = [p for p in model.parameters() if p.requires_grad]
    run = tool(model, criterion, torch.optim.SGD(parameters, lr=lr))
    try:
        for batch in [batches] if once else batches:
            run(batch)
    except (FoundError, mg.NonFiniteError) as error:
        return str(error)
    except RuntimeError as error:
        return None if "zoo::" in str(error) or "does not require grad" in str(error) else f"? {error}"
    return None


def verdict(case: SickNan, text: str | None) -> str:
    """``line``: it names the line, or the input; ``seen``: it says that something is wrong; or nothing."""
    if text is None:
        return ""
    if case.phase == "input":
        return "line" if "argument" in text or "parameter" in text else "seen"
    return "line" if (case.line and case.line in text) or (not case.line and case.kind in text) else "seen"


def costs() -> dict[str, float]:
    """Processor time of a healthy step with each tool, beside the same step without it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from networks import NETWORKS

    network = NETWORKS["resnet18"]
    torch.manual_seed(0)
    x, y = network.batch()
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def made(tool: Tool) -> Callable[[], Any]:
        torch.manual_seed(0)
        model = network.make("none")
        run = tool(model, network.criterion, torch.optim.SGD(model.parameters(), lr=1e-3))
        return lambda: run((x[:8], y[:8]))

    def unwatched(model: nn.Module, criterion: Any, optimizer: Any) -> Callable[[Any], Any]:
        step = mg.TrainStep(model, criterion, optimizer, backend="eager", check="never")
        return lambda batch: step(*batch)

    def unwatched_wrap(model: nn.Module, criterion: Any, optimizer: Any) -> Callable[[Any], Any]:
        mg.wrap(model, check="never")
        return lambda batch: plain_step(model, criterion, optimizer, batch)

    plain = made(by_plain_step(plain_step))
    for name, tool in TOOLS.items():
        beside = {by_train_step: unwatched, by_wrap: unwatched_wrap}.get(tool)  # pyright: ignore[reportCallIssue, reportArgumentType]
        pairs[name] = (made(beside) if beside else plain, made(tool))
    found: dict[str, float] = {}
    for name, pair in pairs.items():
        ratios = []
        for k in range(9):
            seconds = []
            for one in pair:
                start = time.process_time()
                one()
                seconds.append(time.process_time() - start)
            ratios += [seconds[1] / seconds[0]] if k > 1 else []
        found[name] = statistics.median(ratios)
    return found


def table() -> str:
    verdicts = {
        name: {tool: verdict(case, said(how, case.make, case.lr)) for tool, how in TOOLS.items()}
        for name, case in SICK_NAN.items()
    }
    alarms = {}
    for tool, how in TOOLS.items():
        alarms[tool] = sum(said(how, make) is not None for make in HEALTHY_NAN.values())
        alarms[tool] += sum(said(how, make, once=True) is not None for make in HEALTHY.values())
    cost = costs()
    marks = {"line": "line", "seen": "seen", "": "-"}
    lines = [f"| | {' | '.join(TOOLS)} |", f"|---|{'---|' * len(TOOLS)}"]
    total = len(SICK_NAN)
    found = {t: sum(bool(v[t]) for v in verdicts.values()) for t in TOOLS}
    right = {t: sum(v[t] == "line" for v in verdicts.values()) for t in TOOLS}
    rows = {
        f"of {total} sick programs, says that something is wrong": found,
        "names the line (or the input) of the cause": right,
        f"false alarms on {len(HEALTHY_NAN) + len(HEALTHY)} healthy programs": alarms,
        "processor time of a healthy step (ResNet-18)": {t: f"{c - 1:+.0%}" for t, c in cost.items()},
    }
    lines += [f"| {what} | {' | '.join(str(numbers[t]) for t in TOOLS)} |" for what, numbers in rows.items()]
    lines += ["", f"| program | cause | {' | '.join(TOOLS)} |", f"|---|---|{'---|' * len(TOOLS)}"]
    for name, row in verdicts.items():
        shown = " | ".join(marks[row[t]] for t in TOOLS)
        lines.append(f"| `{name}` | {SICK_NAN[name].kind} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="the page to write it into; else it is printed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    text = table()
    if given.into is None:
        print(text)
        return
    page = given.into.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    given.into.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

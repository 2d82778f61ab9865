"""Where the time of a training step goes: against PyTorch at its best settings, and against what the machine allows.

    python benchmarks/table.py [--rounds 7] [--threads N] [--only CNN ...] [--skip compile ...] [--markdown FILE]

For each workload every contestant trains the same model on the same batch; their losses must agree before anything is
timed. Rounds are interleaved and times are of the processor, so that other programs on the machine disturb as little as
they can; figures are medians. Beside time: page faults a step, that is pages that the system had to map and clear.

malloc learns from what a process does, so PyTorch eager is also measured ``alone``, in a process with nothing but our
step beside it; and there once more with ``malloc keeps``: malloc's best settings for this, which must be there when a
process starts and hold for all of it. Both are scaled by our step, which is in all of them.

Two floors: the arithmetic of the step (products and convolutions) at the highest rate that a matrix product reaches,
and its bytes (each value written once and read once) at the rate of a copy. Both are measured in the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from floors import Machine, machine, operations, traffic
from steps import CHECKED_STEPS, Ours, Runner, jax_runner
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from workloads import Workload, every_workload

import memograd as mg

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
EAGER, OURS = "PyTorch eager", "memograd, eager"
ALONE = {f"{EAGER}, alone": {}, f"{EAGER}, alone, malloc keeps": KEEP}
SHOWN = 5  # operators of a profile
# Of the first loss, how far another may be from it after CHECKED_STEPS steps in float32. A U-Net of PyTorch's own is
# 0.0012 off with channels last, and its gradients differ from those in float64 by half a percent of their norm.
TOLERANCE = 3e-3


IN_JAX = ("XOR", "CNN", "LSTM", "MLP")
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Loop:
    """The ordinary loop, at one of PyTorch's settings."""

    def __init__(self, w: Workload, model: nn.Module, fused: bool = False, last: bool = False, compiled: bool = False):
        self.w, self.x = w, w.x
        if last:
            model, self.x = model.to(memory_format=torch.channels_last), w.x.to(memory_format=torch.channels_last)
        self.optimizer = w.optimizer(model.parameters(), **({"fused": True} if fused else {}))
        self.model = torch.compile(model) if compiled else model

    def run(self, steps: int) -> float:
        for _ in range(steps):
            loss = self.w.criterion(self.model(self.x), self.w.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()


CONTESTANTS: dict[str, Callable[[Workload, nn.Module], Runner]] = {
    EAGER: Loop,
    "PyTorch eager, fused=True": lambda w, m: Loop(w, m, fused=True),
    "PyTorch eager, channels last": lambda w, m: Loop(w, m, last=True),
    "torch.compile": lambda w, m: Loop(w, m, compiled=True),
    "JAX jit": jax_runner(scan=False),
    "JAX scan": jax_runner(scan=True),
    "memograd, auto": lambda w, m: Ours(w, m, "auto"),
    "memograd, auto, run": lambda w, m: Ours(w, m, "auto", at_once=True),
    "memograd, eager": lambda w, m: Ours(w, m, "eager"),
    "memograd, native": lambda w, m: Ours(w, m, "native"),
    "memograd, inductor": lambda w, m: Ours(w, m, "inductor"),
}
Figures = dict[str, tuple[float, float]]  # milliseconds and page faults a step


def prepare(w: Workload, names: Sequence[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Build and warm up; returns the runners and, for the others, why not."""
    torch.manual_seed(0)
    model = w.model()
    runners: dict[str, Runner] = {}
    failed: dict[str, str] = {}
    expected = None
    for name in names:
        if ("channels last" in name and w.x.dim() != 4) or ("JAX" in name and not w.name.startswith(IN_JAX)):
            continue
        try:
            runner = CONTESTANTS[name](w, copy.deepcopy(model))
            start = runner.run(1)
            loss = runner.run(CHECKED_STEPS)
            runner.run(w.steps)  # JAX's scan compiles for the number of steps
        except Exception as error:  # not supported: reported in the table
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
            continue
        expected = loss if expected is None else expected
        if not abs(loss - expected) <= TOLERANCE * start:  # of what the loss was at first: it may be nearly zero now
            sys.exit(f"{w.name}: after {1 + CHECKED_STEPS} steps {name} has loss {loss}, {EAGER} {expected}")
        runners[name] = runner
    return runners, failed


def measure(runners: dict[str, Runner], steps: int, rounds: int) -> Figures:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            runner.run(1)
            faults, start = _faults(), time.process_time()
            runner.run(steps)
            taken[name].append(((time.process_time() - start) / steps * 1e3, (_faults() - faults) / steps))
    return {name: _medians(pairs) for name, pairs in taken.items()}


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    times, faults = zip(*pairs, strict=True)
    return statistics.median(times), statistics.median(faults)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def alone(w: Workload, options: argparse.Namespace, settings: dict[str, str]) -> Figures:
    """PyTorch's loop and our step in a process of their own."""
    command = [sys.executable, __file__, "--child", w.name, "--rounds", str(options.rounds)]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return {name: tuple(pair) for name, pair in json.loads(done.stdout.splitlines()[-1]).items()}


class Timed(TorchDispatchMode):
    """How long each operator takes the processor, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        self.taken.append((func.overloadpacket.__name__, time.process_time() - start))
        return result


def profile(runner: Any) -> str:
    """The operators that take most of a step, in milliseconds: the least of several runs, operator by operator."""
    program = runner.step._required()
    flat = program.flat((runner.w.x, runner.w.y), {})
    runs = []
    for _ in range(7):
        with Timed() as timed:
            program.choice.backend.step(flat)
        runs.append(timed.taken)
    own: dict[str, float] = {}
    for same in zip(*runs, strict=True):
        own[same[0][0]] = own.get(same[0][0], 0.0) + min(taken for _, taken in same) * 1e3
    return ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(own.items(), key=lambda p: -p[1])[:SHOWN])


def skipped(w: Workload, contestant: str, option: str) -> bool:
    """``compile`` skips it everywhere, ``ResNet:compile`` for one workload."""
    workload, _, part = option.rpartition(":")
    return part in contestant and w.name.startswith(workload)


def section(w: Workload, here: Machine, options: argparse.Namespace) -> str:
    names = [n for n in CONTESTANTS if not any(skipped(w, n, o) for o in options.skip)]
    runners, failed = prepare(w, names)
    figures = measure(runners, w.steps, options.rounds)
    for name, settings in ALONE.items():
        beside = alone(w, options, settings)
        figures[name] = (beside[EAGER][0] * figures[OURS][0] / beside[OURS][0], beside[EAGER][1])
    lines = [f"### {w.name}", "", "| | ms a step | PyTorch eager = 1 | page faults |", "|---|---|---|---|"]
    for name, (ms, faults) in sorted(figures.items(), key=lambda pair: pair[1]):
        lines.append(f"| {name} | {_short(ms)} | {_short(ms / figures[EAGER][0])} | {faults:.0f} |")
    lines += [f"| {name} | fails | | {why} |" for name, why in failed.items()]
    ours: Any = runners[OURS]
    arithmetic = operations(lambda: runners[EAGER].run(1)) / here.flops * 1e3
    bytes_ms = traffic(ours.step.graph) / here.bytes * 1e3
    floors = f"Floors: arithmetic {arithmetic:.2f} ms, bytes {bytes_ms:.2f} ms."
    lines += ["", f"{floors} Of {OURS}, in ms: {profile(ours)}.", ""]
    chosen: Any = runners.get("memograd, auto")
    if chosen is not None:
        lines += [f"`auto` took {chosen.step.backend_name}: {chosen.step.backend_reason}.", ""]
    return "\n".join(lines)


def _short(number: float) -> str:
    """Two places, or two digits of what is smaller."""
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the workloads' names")
    parser.add_argument("--skip", nargs="*", default=[], help="parts of contestants' names, also WORKLOAD:PART")
    parser.add_argument("--markdown", type=Path, help="a page whose text behind the line <!-- table --> is replaced")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.threads == 1:
        os.environ.setdefault("XLA_FLAGS", ONE_THREAD)  # JAX reads it when it is imported
    warnings.filterwarnings("ignore")
    workloads = every_workload()
    if options.child:
        [w] = [w for w in workloads if w.name == options.child]
        print(json.dumps(measure(prepare(w, [EAGER, OURS])[0], w.steps, options.rounds)))
        return
    here, busy = machine(), os.getloadavg()[0]
    text = (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s); PyTorch {torch.__version__}, "
        f"memograd {mg.__version__}, Python {platform.python_version()}; {here.flops / 1e9:.0f} GFLOP/s, "
        f"{here.bytes / 1e9:.1f} GB/s. {busy:.0f} processes were running when this began. "
        f"Medians of {options.rounds} rounds, time of the processor.\n\n    python {' '.join(sys.argv)}\n\n"
    )
    print(text)
    for w in workloads:
        if not options.only or w.name.startswith(tuple(options.only)):
            text += section(w, here, options) + "\n"
            print(text[text.rindex("###") :], flush=True)
    if options.markdown:
        page = options.markdown.read_text(encoding="utf-8")
        head = page[: page.index("<!-- table -->")]
        options.markdown.write_text(f"{head}<!-- table -->\n\n{text.rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

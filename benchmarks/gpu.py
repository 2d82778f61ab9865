"""Everything of memograd that a GPU could make different, in one run of a few minutes without network.

    PYTHONPATH=src python benchmarks/gpu.py [--json FOLDER] [--only PART ...] [--seconds 470] [--device cuda]

Needs PyTorch 2.11 or newer and NumPy; the case of a checkpoint, which needs safetensors, is skipped without. It prints
a table as it goes, each part within a time of its own, and leaves out what does not fit any more, and says so. The exit
code is 1 where something is wrong.

``--device cpu --small`` runs all of it with small shapes on a machine without a GPU; ``--quick`` is ``--small`` with a
few cases of each part, and shows that the script itself works.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from on_gpu.chance import generators
from on_gpu.corners import modules, odds_and_ends, optimizers
from on_gpu.derivatives import operators, programs
from on_gpu.machine import Machine
from on_gpu.memory import budgets, fused
from on_gpu.report import Report, Skip
from on_gpu.speed import times
from on_gpu.training import half, lecture

HERE = Path(__file__).resolve().parent

SECONDS = 470  # for everything; with more of them each part has more

# part: (what runs, the most and the least seconds that it may take). First what is worth most.
PARTS: dict[str, tuple[Callable[[Report, Machine], None], float, float]] = {
    "programs": (programs, 40, 3),
    "modules": (modules, 40, 3),
    "optimizers": (optimizers, 20, 3),
    "generators": (generators, 20, 3),
    "lecture": (lecture, 30, 5),
    "corners": (odds_and_ends, 20, 3),
    "half": (half, 60, 15),
    "budgets": (budgets, 120, 20),
    "operators": (operators, 90, 10),
    "fused": (fused, 70, 20),
    "times": (times, 120, 20),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small shapes")
    parser.add_argument("--quick", action="store_true", help="small shapes, few cases")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the time for everything")
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "adapter"], help="these parts alone")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write gpu.json there")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error("PyTorch sees no CUDA device here; --device cpu --quick checks what can be checked without")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    warnings.filterwarnings("ignore")
    faulthandler.dump_traceback_later(options.seconds + 60, exit=True)  # for a kernel that never returns
    machine = Machine(device, options.small or options.quick, options.quick)
    wanted = options.only or [*PARTS, *([] if options.quick else ["adapter"])]
    adapter = Adapter() if "adapter" in wanted else None
    report = Report(options.seconds, options.json, machine.about())
    for name, (part, most, least) in PARTS.items():
        if name in wanted:
            limit = most * max(1.0, options.seconds / SECONDS)
            with report.one_part(name, limit, 0 if options.quick else least) as there_is_time:
                if there_is_time:
                    part(report, machine)
            machine.clean()
    if adapter is not None:
        with report.one_part("adapter", 60, 0):
            adapter.report(report)
    return report.conclude()


class Adapter:
    """What memograd assumes of PyTorch's internals, tested in a process beside."""

    def __init__(self) -> None:
        test = HERE.parent / "tests" / "test_torch_adapter.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        self.process = subprocess.Popen(
            command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def report(self, report: Report) -> None:
        with report.case("private names of PyTorch") as case:
            try:
                out, _ = self.process.communicate(timeout=max(1.0, report.left()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise Skip("the tests did not end in time") from None
            if "No module named pytest" in out:
                raise Skip("pytest is not installed")
            failed = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
            case.check(self.process.returncode == 0, "; ".join(failed)[:400] or out[-400:])


if __name__ == "__main__":
    sys.exit(main())

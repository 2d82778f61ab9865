"""What memograd assumes of PyTorch's internals, tested in a process beside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from on_gpu.ledger import FAULT, OK, SKIPPED, Ledger

ROOT = Path(__file__).resolve().parent.parent.parent
ENOUGH = 30  # seconds: the tests began with everything else


class Adapter:
    def __init__(self) -> None:
        test = ROOT / "tests" / "test_torch_adapter.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )

    def report(self, ledger: Ledger, end: float) -> None:
        print("\nadapter", flush=True)
        try:
            out, _ = self.process.communicate(timeout=min(ENOUGH, max(1.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            ledger.note("adapter", "private names of PyTorch", SKIPPED, "the tests did not end in time")
            return
        failed = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if "No module named pytest" in out:
            ledger.note("adapter", "private names of PyTorch", SKIPPED, "pytest is not installed")
        elif self.process.returncode:
            ledger.note("adapter", "private names of PyTorch", FAULT, "; ".join(failed)[:400] or out[-400:])
        else:
            ledger.note("adapter", "private names of PyTorch", OK, "")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

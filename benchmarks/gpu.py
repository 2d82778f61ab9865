"""Everything of memograd that a GPU could make different, in one run of less than eight minutes without network.

    PYTHONPATH=src python benchmarks/gpu.py [--json FOLDER] [--only PART ...] [--seconds 440]

Needs PyTorch 2.11 or newer and NumPy; the case of a checkpoint, which needs safetensors, is skipped without. It prints
a table as it goes, each part within a time of its own, and leaves out what does not fit any more, and says so. The
parts run in a process beside: where it dies, hangs or loses the device, another one goes on with the parts that are
left. The exit code is 1 where something is wrong.

``--device cpu --small`` runs all of it with small shapes on a machine without a GPU; ``--quick`` is ``--small`` with a
few cases of each part, and shows that the script itself works.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from on_gpu.adapter import Adapter
from on_gpu.ledger import Ledger
from on_gpu.parts import PARTS
from on_gpu.supervisor import Supervisor

SECONDS = 440  # for everything, from the first line of this file on; with more of them each part has more


def main(start: float) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes")
    parser.add_argument("--quick", action="store_true", help="small shapes, few cases")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the time for everything")
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "adapter"], help="these parts alone")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write gpu.json there")
    parser.add_argument("--stretch", type=float, help=argparse.SUPPRESS)  # by how much longer parts may take
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # where the process beside writes what it did
    options = parser.parse_args()
    wanted = options.only or [*PARTS, *([] if options.quick else ["adapter"])]
    parts = [name for name in PARTS if name in wanted]
    if options.worker is not None:
        from on_gpu.worker import work

        return work(options, parts, start)
    ledger = Ledger(options.json)
    adapter = Adapter() if "adapter" in wanted else None
    stretch = max(1.0, options.seconds / SECONDS)
    command = [sys.executable, __file__, "--device", options.device, "--stretch", str(stretch)]
    command += [f"--{name}" for name in ("small", "quick") if getattr(options, name)]
    try:
        if code := Supervisor(command, parts, start + options.seconds, ledger).run():
            return code
        if adapter is not None:
            adapter.report(ledger, start + options.seconds)
    finally:
        if adapter is not None:
            adapter.end()
    return ledger.conclude()


if __name__ == "__main__":
    sys.exit(main(time.monotonic()))

"""The process that runs the parts, and says what it is at."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import warnings
from typing import Any

import torch
from on_gpu.machine import Machine
from on_gpu.parts import PARTS, limit
from on_gpu.report import Lost, Report
from on_gpu.supervisor import LOST, USAGE


def work(options: argparse.Namespace, parts: list[str], start: float) -> int:
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)
    warnings.filterwarnings("ignore")
    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            built = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}"
            print(f"{built}, sees no CUDA device here; --device cpu --quick checks what can be checked without",
                  file=sys.stderr)  # fmt: skip
            return USAGE
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    machine = Machine(device, options.small or options.quick, options.quick)

    def tell(message: dict[str, Any]) -> None:
        os.write(options.worker, (json.dumps(message, default=str) + "\n").encode())

    report = Report(start + options.seconds, tell, machine.synchronize)
    about = machine.about()
    tell({"about": about})
    print("  ".join(f"{k} {v}" for k, v in about.items()), flush=True)
    try:
        for position, name in enumerate(parts):
            most = limit(name, parts[position + 1 :], report.end - report.now(), options.stretch)
            with report.one_part(name, most, 0 if options.quick else PARTS[name].least) as there_is_time:
                if there_is_time:
                    PARTS[name].load()(report, machine)
            machine.clean()
        code = 0
    except Lost:
        code = LOST
    sys.stdout.flush()
    os._exit(code)  # without destructors, which would wait for a device that is lost

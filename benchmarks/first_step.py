"""Time to the first step, each in a process of its own that starts with empty caches.

    python benchmarks/first_step.py [--rounds 3] [--kinds ...] [--networks ...] [--threads 1]
    python benchmarks/first_step.py --chain 1000 10000 100000      our stages on chains of so many operators

- ``eager``, ``auto``, ``inductor``: ``mg.TrainStep`` with that backend, from ``import memograd`` on: capture,
  differentiation, everything compiled, the first step, and its comparison with PyTorch.
- ``compile``: the plain loop around ``torch.compile(model)``, up to the end of its first ``optimizer.step()``.

Seconds of processor time, compilers included, and of the clock; medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

KINDS = ("eager", "auto", "compile")
NETWORKS = ("mlp", "cnn", "gpt2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=(*KINDS, "inductor"))
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chain", nargs="+", type=int)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # kind and network, in the process that is measured
    given = parser.parse_args()
    if given.one:
        print(json.dumps(first_step(*given.one, given.threads)))
    elif given.chain:
        chains(given.chain)
    else:
        compare(given)


def compare(given: argparse.Namespace) -> None:
    print(f"{'network':8} {'':10} {'processor':>10} {'clock':>8}   seconds, medians of {given.rounds}")
    for name in given.networks:
        rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in given.kinds}
        for _ in range(given.rounds):
            for kind in given.kinds:
                rounds[kind].append(alone(kind, name, given.threads))
        for kind, times in rounds.items():
            cpu, clock = (statistics.median(t[what] for t in times) for what in ("cpu", "clock"))
            print(f"{name:8} {kind:10} {cpu:10.1f} {clock:8.1f}", flush=True)


def alone(kind: str, name: str, threads: int) -> dict[str, float]:
    """A fresh process, on a machine that has compiled nothing yet."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {"MEMOGRAD_CACHE": folder, "TORCHINDUCTOR_CACHE_DIR": folder, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--one", kind, name, "--threads", str(threads)]
        done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def first_step(kind: str, name: str, threads: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    model, criterion, batch = network(name)
    optimizer = torch.optim.Adam(model.parameters())
    start, before = time.perf_counter(), processor()
    if kind == "compile":
        criterion(torch.compile(model)(batch[0]), batch[1]).backward()
        optimizer.step()
    else:
        import memograd as mg

        mg.TrainStep(model, criterion, optimizer, backend=kind)(*batch)
    return {"clock": time.perf_counter() - start, "cpu": processor() - before}


def network(name: str) -> tuple[Any, Any, tuple[Any, Any]]:
    import torch
    from torch import nn
    from workloads import lecture_workloads

    if name == "cnn":
        w = next(w for w in lecture_workloads() if w.name.startswith("CNN"))
        return w.model(), w.criterion, (w.x, w.y)
    if name == "gpt2":  # 4 layers of 256
        from networks import Hidden, Stack
        from transformers import GPT2Config
        from transformers.models.gpt2.modeling_gpt2 import GPT2Block

        config = GPT2Config(n_layer=4, n_embd=256, n_head=4, n_positions=128)
        model = Stack(*[Hidden(GPT2Block(config, layer_idx=i)) for i in range(4)], nn.LayerNorm(256))
        return model, nn.MSELoss(), (torch.randn(8, 128, 256), torch.randn(8, 128, 256))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return model, nn.CrossEntropyLoss(), (torch.randn(64, 64), torch.randint(0, 10, (64,)))


def processor() -> float:
    """Seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def chains(lengths: list[int]) -> None:
    """Our stages without a compiler, seconds of processor time."""
    import torch

    import memograd as mg
    from memograd.pipeline import lowered

    torch.set_num_threads(1)
    x, w = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    stages = ("capture", "differentiate", "lower", "load")
    print(f"{'operators':>10} " + " ".join(f"{s:>14}" for s in stages) + f" {'all':>8}   microseconds for each")
    for n in (8, *lengths):  # first what is loaded once

        def program(x: torch.Tensor, w: torch.Tensor, n: int = n) -> torch.Tensor:
            for _ in range(n // 4):
                x = (x * w).sin() + x.tanh()
            return x.sum()

        times = [time.process_time()]
        graph: Any = mg.capture(program, x, w)
        times.append(time.process_time())
        graph = mg.differentiate(graph)
        times.append(time.process_time())
        graph = lowered(graph)
        times.append(time.process_time())
        assert callable(graph.function)
        times.append(time.process_time())
        parts = [b - a for a, b in pairwise(times)]
        if n > 8:
            line = " ".join(f"{p:14.2f}" for p in parts)
            print(f"{n:10,} {line} {sum(parts):8.2f}   {sum(parts) / n * 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()

"""What capture and differentiation cost, against other ways to the same graphs.

    python benchmarks/capture.py [--rounds 5] [--json FILE]

- ``ours``: capture + differentiate, simplification included.
- ``aot``: AOTAutograd's tracing of forward and backward, without a compiler behind it.
- ``make_fx``: ``make_fx`` of the functional gradient, on fake tensors.
- ``export``: ``torch.export`` + ``run_decompositions``, which yields the forward graph only.

One process, rounds interleaved, medians. Nothing is compiled or run on data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from workloads import Workload, lecture_workloads

import memograd as mg


class WithLoss(nn.Module):
    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.model, self.criterion = w.model(), w.criterion

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.model(x), y)


def ours(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    return len(mg.differentiate(mg.capture(module, x, y)).nodes)


def capture_only(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    return len(mg.capture(module, x, y).nodes)


def aot(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Through torch.compile's front door with a backend that hands both graphs to AOTAutograd and compiles nothing."""
    nodes = []

    def keep(graph: torch.fx.GraphModule, _inputs: object) -> Callable:
        nodes.append(sum(n.op == "call_function" for n in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        return aot_module_simplified(graph, inputs, fw_compiler=keep, bw_compiler=keep)

    torch.compiler.reset()
    torch.compile(module, backend=backend, fullgraph=True)(x, y).backward()
    return sum(nodes)


def by_make_fx(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    parameters = {k: v.detach() for k, v in module.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional_call(module, parameters, (x, y))

    graph = make_fx(grad_and_value(loss), tracing_mode="fake")(parameters, x, y)
    return sum(n.op == "call_function" for n in graph.graph.nodes)


def export(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    program = torch.export.export(module, (x, y)).run_decompositions()
    return sum(n.op == "call_function" for n in program.graph.nodes)


WAYS = {"ours": ours, "ours, capture only": capture_only, "aot": aot, "make_fx": by_make_fx, "export": export}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch._dynamo.config.allow_rnn = True  # else torch.compile leaves nn.LSTM alone
    rows = []
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, median of {options.rounds}, seconds")
    print(f"{'':16}" + "".join(f"{way:>20}" for way in WAYS))
    for w in lecture_workloads():
        module = WithLoss(w)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        nodes: dict[str, int | str] = {}
        for _ in range(options.rounds):
            for way, f in WAYS.items():
                start = time.perf_counter()
                try:
                    nodes[way] = f(module, w.x, w.y)
                    seconds[way].append(time.perf_counter() - start)
                except Exception as error:  # a way that cannot do it is a result too
                    nodes[way] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        medians = {way: statistics.median(s) if s else None for way, s in seconds.items()}
        cells = (f"{medians[way]:.3f} ({nodes[way]} ops)" if medians[way] else "fails" for way in WAYS)
        print(f"{w.name:16}" + "".join(f"{c:>20}" for c in cells), flush=True)
        for way, reason in nodes.items():
            if isinstance(reason, str):
                print(f"{'':16}{way}: {reason[:150]}")
        rows.append({"workload": w.name, "seconds": medians, "operators": nodes})
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What capture and differentiation cost, against other ways to the same graphs.

    python benchmarks/capture.py [--rounds 5] [--json FILE]
    python benchmarks/capture.py --gpt2      GPT-2 small of transformers, 12 layers of 768, each stage

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


class NextWord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        self.model = GPT2LMHeadModel(GPT2Config(n_layer=12, n_head=12, n_embd=768))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, labels=ids).loss


def gpt2(rounds: int) -> None:
    """Seconds of the clock on the wall, and of the processor, which other programs leave alone."""
    module, ids = NextWord().train(), torch.zeros(2, 128, dtype=torch.long)
    stages: dict[str, list[tuple[float, float]]] = {"capture": [], "differentiate": [], "both": []}
    for _ in range(rounds):
        clocks = [(time.perf_counter(), time.process_time())]
        forward = mg.capture(module, ids)
        clocks.append((time.perf_counter(), time.process_time()))
        graph = mg.differentiate(forward)
        clocks.append((time.perf_counter(), time.process_time()))
        for stage, (i, j) in zip(stages, ((0, 1), (1, 2), (0, 2)), strict=True):
            stages[stage].append((clocks[j][0] - clocks[i][0], clocks[j][1] - clocks[i][1]))
        operators = {"capture": len(forward.nodes), "differentiate": len(graph.nodes), "both": len(graph.nodes)}
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, GPT-2 small; the first time, and the median"
    )
    for stage, seconds in stages.items():
        wall, processor = (statistics.median(s) for s in zip(*seconds, strict=True))
        first = "first {:5.2f} s ({:5.2f} s of the processor)".format(*seconds[0])
        print(f"{stage:14} {first}, median {wall:5.2f} s ({processor:5.2f} s), {operators[stage]:,} operators")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gpt2", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.gpt2:
        return gpt2(options.rounds)
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

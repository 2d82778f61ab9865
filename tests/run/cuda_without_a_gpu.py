"""Run by test_cuda_graphs.py in a process of its own: programs on CUDA tensors without data, on a machine without CUDA.

A tensor without data may say that it lies on a CUDA device, and PyTorch then takes the ways it takes there. All that is
missing is a guard, which switches devices: one that does nothing is loaded from the library that argv[1] names.
Prints one JSON object: for each program what became of it.
"""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn, optim

if torch.version.cuda is None:
    ctypes.CDLL(sys.argv[1])
else:
    torch._C._ensureCUDADeviceGuardSet()  # pyright: ignore[reportAttributeAccessIssue]

from memograd._torch import FAKE
from memograd.errors import BackendError
from memograd.fuse.groups import groups
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of
from memograd.lower.decompose import parts
from memograd.lower.lower import lower
from memograd.memory.costs import storages
from memograd.pipeline import capture_for, differentiate, simplify
from memograd.run.choose import choose
from memograd.tracing.inputs import Inputs
from memograd.train.appended import Update
from memograd.train.objective import Objective
from memograd.train.rates import Rates
from memograd.train.refinements import Clip
from memograd.train.update import counter

Tensor = torch.Tensor


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Last(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


def accumulated(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for k in range(x.shape[1]):
        out[:, k] = x[:, k].sin() * torch.tensor(2.0)  # a number on the CPU
    return out + torch.tensor([1.0] * x.shape[1], device=x.device)


class Idioms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return accumulated(self.linear(x))


class Sampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.expand(len(x), 2, 3), list(x.shape), align_corners=True)
        return F.grid_sample(x, grid, align_corners=True)


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        words = torch.arange(1, 4, device=x.device).expand(x.shape[1], 3)
        lengths = (torch.full((x.shape[1],), n, device=x.device) for n in (x.shape[0], 3))
        return F.ctc_loss(self.out(x).log_softmax(-1), words, *lengths)


def images() -> Tensor:
    return torch.empty(2, 3, 8, 8)


PROGRAMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)), lambda: torch.empty(4, 8)),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), images),
    "dropout": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), lambda: torch.empty(4, 8)),
    "lstm": (lambda: Last(nn.LSTM(4, 8, 2, dropout=0.5)), lambda: torch.empty(3, 2, 4)),
    "gru": (lambda: Last(nn.GRU(4, 8)), lambda: torch.empty(3, 2, 4)),
    "attention": (Attention, lambda: torch.empty(2, 6, 16)),
    "idioms": (Idioms, lambda: torch.empty(4, 8)),
    "grid sample": (Sampled, images),
    "ctc": (Speech, lambda: torch.empty(12, 3, 8)),
}
OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, momentum=0.9),
    "adam": optim.Adam,
}


setattr(Inputs, "_check_ours", lambda *_: None)  # noqa: B010  tensors without data are what there is here
storages.rng_state = lambda device: torch.zeros(16, dtype=torch.uint8)


def step(make: Callable[[], nn.Module], data: Callable[[], Tensor], optimizer: Any) -> Graph:
    with FAKE, torch.device("cuda"):
        model, x = make(), data()
    objective = Objective(model, lambda out, _: out.square().mean())
    joint = differentiate(capture_for(objective, (x, x), {}, wrt=()))
    made = optimizer([*model.parameters()])
    return simplify(Update(joint, made, Rates(made), clip=Clip(norm=1.0, value=0.5)).append())


def on_the_cpu(graph: Graph) -> list[str]:
    """Values that lie on the CPU, with what they are for."""
    here = [n for n in graph.fx.nodes if n.op != "output" and any(t.device.type == "cpu" for t in tensors_of(n))]
    return [f"{n.name} {n.target} {'update' if 'update_of' in n.meta else n.op}" for n in here]


def odd_sizes(found: storages.Storages) -> int:
    """Bytes by which values on the device are no blocks of its allocator."""
    made = [
        found.sizes[v]
        for o, values in zip(found.operators, found.outputs, strict=True)
        if not o.saves and all(t.is_cuda for t in tensors_of(o.node))
        for v in values
    ]
    return sum(size % 512 for size in made)


def describe(graph: Graph) -> dict[str, Any]:
    lowered = lower(graph)
    apart = parts(lowered)
    try:
        choose(graph, [], "native")
        refusal = ""
    except BackendError as error:
        refusal = str(error)
    made = groups(apart)
    return {
        "cpu": on_the_cpu(graph),
        "targets": sorted({str(n.target) for n in graph.nodes}),
        "mutations": [o.name for o in graph.outputs if o.kind == "mutation"],
        "native": refusal,
        "kernels": len(made),
        "mixed kernels": sum(len({t.device for n in g.inside for t in tensors_of(n)}) > 1 for g in made),
        "odd sizes": odd_sizes(storages.storages(lowered)),
    }


def main() -> None:
    found: dict[str, Any] = {}
    for name, (make, data) in PROGRAMS.items():
        for kind, optimizer in OPTIMIZERS.items() if name == "mlp" else [("sgd", OPTIMIZERS["sgd"])]:
            try:
                found[f"{name}, {kind}"] = describe(step(make, data, optimizer))
            except Exception:
                found[f"{name}, {kind}"] = {"error": traceback.format_exc()}
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)  # torch.autocast would not, without a device
    found["autocast"] = describe(step(*PROGRAMS["mlp"], OPTIMIZERS["sgd"]))
    with FAKE:
        parameter = torch.empty(3, device="cuda")
        kinds: list[dict[str, bool]] = [{}, {"fused": True}, {"capturable": True}]
        found["counters"] = [counter(parameter, kind).device.type for kind in kinds]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""How PyTorch's CUDA allocator counts: budgets are promised in the bytes of ``torch.cuda.max_memory_allocated``.

- It hands out multiples of 512 bytes.
- A request of more than 1 MiB may be answered with a cached block that is up to 1 MiB larger, which is not split then;
  which one depends on what was freed before. With ``expandable_segments`` every block is split.
- cuBLAS takes a workspace at its first call and keeps it as long as the process lives.
"""

from __future__ import annotations

import os
import re

import torch

from memograd.graph.graph import Graph

_BLOCK = 512
_LARGE = 1 << 20
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"

# Operators that cuBLAS computes.
_PRODUCTS = frozenset(
    {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "addr", "dot", "vdot", "_addmm_activation"}
)


def taken(size: int) -> int:
    """The most bytes that a request for ``size`` of them takes."""
    rounded = -(-size // _BLOCK) * _BLOCK
    return rounded + _LARGE if rounded > _LARGE and not _splits_always() else rounded


def _splits_always() -> bool:
    settings = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    return "expandable_segments:true" in settings.replace(" ", "").lower()


def blocks() -> dict[int, int]:
    """The blocks that are in use, as bytes by address."""
    sizes = {}
    for segment in torch.cuda.memory_snapshot() if torch.cuda.is_initialized() else ():
        address = segment["address"]
        for block in segment["blocks"]:
            sizes[address] = block["size"]
            address += block["size"]
    return sizes


def kept_by_libraries(graph: Graph) -> int:
    """Bytes of the workspaces that the libraries behind ``graph``'s operators keep."""
    devices = {
        str(node.meta["val"].device)
        for node in graph.nodes
        if getattr(getattr(node.target, "overloadpacket", None), "__name__", "") in _PRODUCTS
    }
    return sum(taken(_cublas_workspace(device)) for device in devices if torch.device(device).type == "cuda")


def _cublas_workspace(device: str) -> int:
    """As PyTorch chooses it: from the environment, or 32 MiB from Hopper on and 8.1 MiB before."""
    pairs = re.findall(r":(\d+):(\d+)", os.environ.get(_WORKSPACE, ""))
    if pairs:
        return sum(int(size) * int(count) for size, count in pairs) << 10
    large = not torch.cuda.is_available() or torch.cuda.get_device_capability(device)[0] >= 9 or torch.version.hip
    return (32 << 20) if large else (4096 * 2 + 16 * 8) << 10

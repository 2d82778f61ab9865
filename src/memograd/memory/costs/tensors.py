"""What the nodes of a graph mean for memory: how many bytes they take."""

from __future__ import annotations

import torch
from torch import fx

from memograd.draws import DEVICES
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of

_CUDA_BLOCK = 512  # PyTorch's CUDA allocator rounds every request up to this many bytes


def input_bytes(graph: Graph) -> dict[fx.Node, int]:
    """Bytes of each input: all of the storage behind a parameter or buffer, of the batch only what is seen of it."""
    found = {}
    for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
        seen = bytes_of(node.meta["val"] if entry.tensor is None else entry.tensor)
        found[node] = seen if entry.tensor is None else max(seen, entry.tensor.untyped_storage().nbytes())
    return found


def device_of(node: fx.Node) -> str | None:
    """The device whose generator a random node draws from; None where it cannot be put back."""
    devices = {str(t.device) for t in tensors_of(node)}
    return next(iter(devices)) if len(devices) == 1 and next(iter(devices)).partition(":")[0] in DEVICES else None


def bytes_of(tensor: torch.Tensor) -> int:
    """What the allocator hands out for a new tensor of this form: operators return dense ones."""
    exact = tensor.numel() * tensor.element_size()
    return -(-exact // _CUDA_BLOCK) * _CUDA_BLOCK if tensor.device.type == "cuda" else exact

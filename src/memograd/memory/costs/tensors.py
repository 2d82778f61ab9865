"""What the nodes of a graph mean for memory: how many bytes they take."""

from __future__ import annotations

import torch
from torch import fx

from memograd.draws import DEVICES
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of
from memograd.memory.costs import cuda


def input_bytes(graph: Graph) -> dict[fx.Node, int]:
    """Bytes of each input: all of the storage behind a parameter or buffer, of the batch only what is seen of it."""
    sizes, blocks = {}, cuda.blocks()
    for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
        if entry.tensor is None:
            sizes[node] = bytes_of(node.meta["val"])
        else:
            storage = entry.tensor.untyped_storage()
            size = max(bytes_of(entry.tensor), taken(storage.nbytes(), entry.tensor.device))
            sizes[node] = blocks.get(storage.data_ptr(), size) if entry.tensor.is_cuda else size
    return sizes


def device_of(node: fx.Node) -> str | None:
    """The device whose generator a random node draws from; None where it cannot be put back."""
    devices = {str(t.device) for t in tensors_of(node)}
    return next(iter(devices)) if len(devices) == 1 and next(iter(devices)).partition(":")[0] in DEVICES else None


def bytes_of(tensor: torch.Tensor) -> int:
    """What the allocator hands out for a new tensor of this form: operators return dense ones."""
    return taken(tensor.numel() * tensor.element_size(), tensor.device)


def taken(size: int, device: torch.device) -> int:
    """What the allocator hands out for a request of ``size`` bytes."""
    return cuda.taken(size) if device.type == "cuda" else size

"""What PyTorch reads out of tensors past its dispatcher: their numbers are looked at all the same.

* ``x.tolist()``, ``x.numpy()``, ``np.from_dlpack(x)`` and ``x.apply_(f)`` hand them to Python, and so does a pickle.
* A recurrent layer on a packed sequence, ``pad_packed_sequence`` and ``tensor_split`` are C++ that reads how long the
  sequences and the parts are, and then calls operators for each.
* ``torch.tensor([a, b])`` makes a constant of the numbers that are in ``a`` and ``b``, and so do all that take lists.

On tensors without data most of it raises, and the rest reads memory that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import dlpack

from memograd._torch import PICKLES_BY, past_the_dispatcher, pytree
from memograd.errors import CaptureError
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.provenance import caller

aten = torch.ops.aten
TO_PYTHON = frozenset({torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__})
BY_ELEMENT = frozenset({torch.Tensor.apply_, torch.Tensor.map_, torch.Tensor.map2_})  # and written, past it, too
_NUMBERS = frozenset(
    {
        *(torch.Tensor.__index__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__bool__),
        *(torch.Tensor.__complex__, torch.Tensor.item),
    }
)


def _called(name: str, *overloads: str) -> set[Any]:
    """Whatever a program may call the operator ``name`` by; of it as an operator, only these overloads read."""
    packet = getattr(aten, name)
    functions = {getattr(owner, name) for owner in (torch, torch.Tensor) if hasattr(owner, name)}
    return {packet, *(getattr(packet, overload) for overload in overloads), *functions}


# Which argument is read, by its position and name.
_SPLIT = (1, "tensor_indices_or_sections")
_LENGTHS = (1, "batch_sizes")
_ARGUMENT = {
    **dict.fromkeys(_called("tensor_split", "tensor_indices_or_sections"), _SPLIT),
    **dict.fromkeys(_called("_pad_packed_sequence", "default"), _LENGTHS),
    **{f: _LENGTHS for layer in ("lstm", "gru", "rnn_tanh", "rnn_relu") for f in _called(layer, "data")},
}
_OF_LISTS = frozenset(
    {
        *(torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor, torch.Tensor.new),
        *(torch.sparse_coo_tensor, torch.sparse_compressed_tensor, torch.sparse_csr_tensor),
    }
)


def read_by(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors whose numbers ``func`` reads, and nobody sees it do so."""
    if func in TO_PYTHON:
        return [args[0]]
    if func in BY_ELEMENT:
        return [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    if func in _NUMBERS:
        return [args[0]] if past_the_dispatcher() else []
    if func in _OF_LISTS:
        return list(_in_lists((*args, *kwargs.values())))
    if func not in _ARGUMENT:
        return []
    position, name = _ARGUMENT[func]
    read = args[position] if len(args) > position else kwargs.get(name)
    # A layer on a batch that is not packed has its state, or a list, in this place.
    whole = isinstance(read, torch.Tensor) and not (read.is_floating_point() or read.is_complex())
    return [read] if whole else []


def _in_lists(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from (x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor))


def _pickled(tensor: torch.Tensor, protocol: Any) -> Any:
    tracer = current()
    if tracer is None:
        return _PICKLES(tensor, protocol)
    tracer.look(tensor, "value")
    with tracer.pause():
        return _PICKLES(tracer.stand_in(tensor).detach(), protocol)


def _handed_out(tensor: Any) -> Any:
    if current() is not None:
        source, line = caller()
        raise CaptureError(
            f"{source} ({line}) hands the memory of a tensor to others (to_dlpack), and nobody would see what they "
            "read and write there; torch.from_dlpack(x) and x.numpy() are seen"
        )
    return _TO_DLPACK(tensor)


_PICKLES: Any = getattr(torch.Tensor, PICKLES_BY)
_TO_DLPACK: Any = vars(dlpack)["to_dlpack"]
PICKLES = Interposed(torch.Tensor, PICKLES_BY, _pickled)
TO_DLPACK = Interposed(dlpack, "to_dlpack", _handed_out)

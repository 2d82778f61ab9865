"""Which memory a tensor looks at, and how it lies there.

- ``address`` / ``entries_of`` / ``memory_of``: the values of a sparse tensor, and their number, without a check that
  they are coalesced (``_values``, ``_nnz``).
- ``share_memory``: whether two tensors look at one memory; without data there is no pointer to compare.
- ``is_lent``: asks a tensor for its storage while a program is captured, without the capture seeing the question
  (``DisableTorchFunction``).
- ``suggested_format``: ``Tensor.suggest_memory_format`` of C++, by which kernels choose the strides of their results.
- ``elementwise_strides``: how a result of several operands lies, in the order of theirs.
- ``is_view_of_autograd``: nothing public says so (``_is_view``).
- ``VERSION``: what ``x._version`` calls, as function modes see it. PyTorch's documentation of ``Function`` names it.
- ``PICKLES_BY``: what a pickle and ``torch.save`` call of each tensor; what they call before, no function mode sees.
- ``neg_view``: a view whose numbers are negated when they are read. PyTorch makes such views (``x.conj().imag``); no
  public function makes one of a given tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch._prims_common import compute_elementwise_output_strides, suggest_memory_format

from memograd._torch.fake import FakeTensor, is_fake

is_view_of_autograd = torch.Tensor._is_view
"""Whether autograd takes a tensor for a view of another one."""
PICKLES_BY = "_reduce_ex_internal"
VERSION = torch.Tensor._version.__get__  # pyright: ignore[reportAttributeAccessIssue]


def address(tensor: torch.Tensor) -> int:
    """Where the elements of ``tensor`` begin, of a sparse one its values."""
    return (tensor._values() if tensor.layout is torch.sparse_coo else tensor).data_ptr()


def entries_of(tensor: torch.Tensor) -> int:
    """How many entries a sparse tensor has, those that are given twice counted twice."""
    return tensor._nnz()


def memory_of(tensor: torch.Tensor) -> int:
    """Which memory ``tensor`` looks at, of a sparse one its values."""
    return (tensor._values() if tensor.layout is torch.sparse_coo else tensor).untyped_storage().data_ptr()


def neg_view(tensor: torch.Tensor) -> torch.Tensor:
    """A view of ``tensor`` whose numbers are negated when they are read."""
    return torch._neg_view(tensor)  # pyright: ignore[reportPrivateImportUsage]


def share_memory(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors, with or without data, look at one memory."""
    return torch._C._is_alias_of(first, second)  # pyright: ignore[reportAttributeAccessIssue]


def is_lent(tensor: torch.Tensor) -> bool:
    """Whether the memory of ``tensor`` is another library's (``torch.from_numpy``): PyTorch can't make it larger."""
    with torch._C.DisableTorchFunction():
        with_storage = tensor.layout is torch.strided and not is_fake(tensor)
        return with_storage and not tensor.untyped_storage().resizable()


def copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the very strides of ``tensor``, also where its elements overlap; nobody's view."""
    tensor = tensor.detach()
    if keeps_its_numbers_elsewhere(tensor) or tensor.layout is torch.sparse_coo:
        return tensor.clone()
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    memory = tensor.as_strided((copy.untyped_storage().nbytes() // copy.element_size(),), (1,))
    memory = memory.clone().resolve_conj().resolve_neg()
    return copy.set_(memory.untyped_storage(), 0, copy.shape, copy.stride())


_DISPATCH = attrgetter("__torch_dispatch__")


def keeps_its_numbers_elsewhere(tensor: torch.Tensor) -> bool:
    """True for a subclass that runs operators itself (``__torch_dispatch__``): the memory that it shows may not exist,
    and reading it ends the process."""
    own = _DISPATCH(type(tensor)) is not _DISPATCH(torch.Tensor)
    return own and not isinstance(tensor, FakeTensor)


def suggested_format(tensor: torch.Tensor) -> torch.memory_format:
    """Channels last for images and volumes whose channels come last, gaps or not; many kernels lay out their result
    so. (``is_contiguous(memory_format=...)``, the public question, is stricter: it allows no gaps.)"""
    return suggest_memory_format(tensor)


def elementwise_strides(tensors: Sequence[Any]) -> tuple[int, ...]:
    """Strides of an elementwise result of ``tensors`` (and numbers). No public operator shows them for more than two
    operands without computing on the way, and what is computed on the way lies differently."""
    operands = torch.broadcast_tensors(*(t for t in tensors if isinstance(t, torch.Tensor)))
    return tuple(compute_elementwise_output_strides(*operands))

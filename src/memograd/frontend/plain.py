"""When a wrapped model runs PyTorch's own forward, and no graph of ours."""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import has_data, in_forward_mode, inside_make_fx, inside_torch_func, pytree
from memograd.frontend.inputs import only_tensors
from memograd.tracing.under_way import ACTIVE, capturing


def is_plain(args: Any, kwargs: Any) -> bool:
    """Whether PyTorch's own forward is to run: nobody asks for gradients, or somebody else is in charge of them."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return True
    if ACTIVE.plain or (ACTIVE.tracers and capturing()) or inside_torch_func() or in_forward_mode():
        return True
    if torch.jit.is_tracing() or inside_make_fx():  # pyright: ignore[reportPrivateImportUsage]
        return True
    if not kwargs and only_tensors(args):
        return any([x.is_meta for x in args])
    return any(not has_data(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))

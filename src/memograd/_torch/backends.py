"""What the libraries behind operators are told: ``torch.backends``.

- ``without_cudnn``: cuDNN is off, and nothing else changes. ``torch.backends.cudnn.flags`` writes all flags, cannot
  begin where precisions were set by kind of operator, and is the one way that ``disable_global_flags`` leaves, which
  PyTorch's testing library calls.
- ``float32_precisions`` / ``put_float32_precisions``: how single precision is multiplied, by library and kind of
  operator. The older questions (``allow_tf32``, ``torch.get_float32_matmul_precision``) raise an error where that was
  set in the newer way, ``torch.backends.cuda.matmul.fp32_precision``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

_C = torch._C
_LIBRARIES = ("cuda", "mkldnn")
_KINDS = ("matmul", "conv", "rnn")


@contextmanager
def without_cudnn() -> Iterator[None]:
    """What runs inside, on any thread, is not computed by cuDNN."""
    before = _C._get_cudnn_enabled()
    _C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        _C._set_cudnn_enabled(before)


def float32_precisions() -> dict[tuple[str, str], str]:
    """``ieee`` or ``none`` (all digits), ``tf32`` or ``bf16`` (fewer), by library and kind of operator."""
    ask = _C._get_fp32_precision_getter  # pyright: ignore[reportAttributeAccessIssue]
    return {(library, kind): ask(library, kind) for library in _LIBRARIES for kind in _KINDS}


def put_float32_precisions(precisions: Mapping[tuple[str, str], str]) -> None:
    """Set them to what another process has; in the older way where that can say it: Inductor's tuning asks so."""
    for older in ("medium", "high", "highest"):
        if float32_precisions() == precisions:
            return
        torch.set_float32_matmul_precision(older)
    put = _C._set_fp32_precision_setter  # pyright: ignore[reportAttributeAccessIssue]
    for place, precision in precisions.items():
        if float32_precisions()[place] != precision:
            put(*place, precision)

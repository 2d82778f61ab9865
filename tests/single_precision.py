"""How single precision is multiplied, as users set it by kind of operator, and as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def fp32_precision(kind: Any, precision: str) -> Iterator[None]:
    """``kind``: ``torch.backends.cuda.matmul`` or its like. (pytest's monkeypatch would delete the attribute.)"""
    before = kind.fp32_precision
    kind.fp32_precision = precision
    try:
        yield
    finally:
        kind.fp32_precision = before

"""Products of matrices in vector registers, for C text that says where they go."""

from __future__ import annotations

from pathlib import Path


def with_vectors(text: str) -> str:
    """``text`` with vectors.c in place of its line ``VECTORS``."""
    return text.replace("\nVECTORS\n", "\n" + Path(__file__).with_name("vectors.c").read_text() + "\n")

"""Mathematics on terminals that know ASCII, or little more: x̄ becomes ``x_bar`` where it cannot be shown as it is."""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import Any

_NAME = "memograd.plain"

_WORDS = {
    "\u0304": "_bar", "\u0305": "_bar", "\u0302": "_hat", "\u0303": "_tilde", "\u0307": "_dot", "\u0308": "",
    "∂": "d", "∇": "grad", "Σ": "sum", "∑": "sum", "Π": "prod", "∏": "prod", "√": "sqrt", "∞": "inf", "∈": "in",
    "·": "*", "⊙": "*", "⊗": "(x)", "×": "x", "÷": "/", "−": "-", "–": "-", "—": "-", "±": "+-", "‖": "||", "∘": "o",
    "←": "<-", "→": "->", "↦": "->", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "≪": "<<", "≫": ">>", "≡": "==",
    "²": "^2", "³": "^3", "ᵀ": "^T", "⁻": "^-", "¹": "^1", "µ": "u", "½": "1/2", "…": "...", "′": "'", "”": '"',
    "“": '"', "’": "'", "‘": "'", "│": "|", "─": "-", "█": "#", "▏": "|", "░": ".", "✓": "ok", "✗": "x",
}  # fmt: skip


def plain(text: str) -> str:
    """``text`` in ASCII."""
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if character in _WORDS:
        return _WORDS[character]
    if (parts := unicodedata.normalize("NFKD", character)) != character:
        return plain(parts)
    words = unicodedata.name(character, "").split()
    return words[-1].lower() if words[:1] == ["GREEK"] else "?"


def show_what_can_be_shown(*streams: Any) -> None:
    """Let the streams replace what their encoding lacks, where they would raise an error."""
    codecs.register_error(_NAME, lambda e: (plain(e.object[e.start : e.end]), e.end))  # pyright: ignore[reportAttributeAccessIssue]
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)

"""The lesson's texts: a file for each language, `words/en.json` and `words/zh.json`, with the same keys.

In a text **this** is stressed, `this` is code, $this$ a formula and {this} a number that the page fills in. A text that
has any of the first three becomes a list of [kind, content] here, a formula as a tree of MathML; others stay text.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

from memograd.explain.mathml import typeset

LANGUAGES = ("en", "zh")
_MARKED = re.compile(r"\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`|\$(?P<math>[^$]+)\$")


def words() -> dict[str, Any]:
    """All texts by language, ready for the page."""
    return {language: _pieces(read(language)) for language in LANGUAGES}


def read(language: str) -> dict[str, Any]:
    """The texts of one language as they are written."""
    folder = resources.files("memograd.explain.lesson") / "words"
    return json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))


def _pieces(texts: Any) -> Any:
    if isinstance(texts, dict):
        return {key: _pieces(value) for key, value in texts.items()}
    if isinstance(texts, list):
        return [_pieces(text) for text in texts]
    parts: list[list[Any]] = []
    at = 0
    for match in _MARKED.finditer(texts):
        if match.start() > at:
            parts.append(["text", texts[at : match.start()]])
        kind = str(match.lastgroup)
        parts.append([kind, typeset(match[kind]) if kind == "math" else match[kind]])
        at = match.end()
    if not parts:
        return texts
    return {"pieces": [*parts, ["text", texts[at:]]] if at < len(texts) else parts}

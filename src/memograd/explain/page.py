"""``mg.explain``: one self-contained HTML file that lets a person step through backpropagation on a model.

The page is written in ``page/`` as plain HTML, CSS and JavaScript modules. Here they are put together in one file with
the data; nothing is compiled, nothing is fetched, and no text of the user's becomes markup or script.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from memograd.errors import OptionError
from memograd.explain.bundle import Bundle
from memograd.memory.plan import Plan

LANGUAGES = ("en", "zh")
_STYLES = ("palette", "picture", "style")
_SCRIPTS = ("words", "dom", "icons", "tensors", "steps", "layout", "graph", "gestures", "node", "trees", "recursion")
_SCRIPTS += ("memory", "search", "paint", "paper", "main")  # each behind those it imports


@dataclass(frozen=True, repr=False)
class Page:
    """What ``mg.explain`` returns: ``page.save("page.html")``, ``page.text``, ``page.data``; notebooks show it."""

    data: dict[str, Any]

    @cached_property
    def html(self) -> str:
        """The whole page."""
        return bundle().assemble(self.data)

    @property
    def text(self) -> str:
        """The same for a terminal, in short."""
        from memograd.explain.outline import outline

        return outline(self.data)

    def save(self, path: str | Path) -> Path:
        """Write the page; a browser opens it from disk."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path

    def to_json(self) -> str:
        """The data alone (docs/explain.md)."""
        return json.dumps(self.data, ensure_ascii=False, allow_nan=False)

    def _repr_html_(self) -> str:
        style = "width:100%;height:720px;border:1px solid #ccc;border-radius:8px"
        return (
            f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.html, quote=True)}"></iframe>'
        )

    def __repr__(self) -> str:
        summary = self.data["summary"]
        return f"<memograd page of {self.data['title']}: {summary['operators']} operators; page.save('page.html')>"


def explain(
    f: Any,
    *args: Any,
    loss: Callable[..., Any] | None = None,
    memory_budget: int | str | Plan | None = None,
    lang: str = "en",
    **kwargs: Any,
) -> Page:
    """Explain the gradients of a model or a function on one page: every value, every adjoint, every step between.

    Args:
        f: an ``nn.Module``, or a function of tensors; without ``loss`` it returns the loss.
        args, kwargs: what it is called with; with a ``loss`` of two arguments the last of ``args`` is its target:
            ``loss(f(*args[:-1]), args[-1])``.
        memory_budget: also show how forward and backward fit this many bytes, and several other budgets.
        lang: the language the page opens in, ``en`` or ``zh``.

    Raises:
        GraphError: the loss is not one number, or nothing can be differentiated.
        CaptureError, MissingRuleError, BudgetInfeasibleError: the step cannot be captured, differentiated, planned.
    """
    from memograd.explain.data import collect, subject

    if lang not in LANGUAGES:
        raise OptionError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    data, joint, describer = collect(subject(f, args, kwargs, loss))
    if memory_budget is not None:
        from memograd.explain.budgets import budgets

        data["memory"] = budgets(joint, memory_budget, describer)
    return Page({**data, "lang": lang})


@cache
def bundle() -> Bundle:
    """The files of the page."""
    folder = resources.files("memograd.explain") / "page"
    return Bundle(
        folder / "body.html",
        [folder / f"{name}.css" for name in _STYLES],
        [folder / "vendor" / "dagre.min.js"],
        [folder / f"{name}.js" for name in _SCRIPTS],
    )

"""``mg.explain``: one self-contained HTML file that lets a person step through backpropagation on a model.

The page is written in ``page/`` as plain HTML, CSS and JavaScript modules. Here they are put together in one file with
the data; nothing is compiled, nothing is fetched, and no text of the user's becomes markup or script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from memograd.errors import OptionError
from memograd.memory.plan import Plan

LANGUAGES = ("en", "zh")
_SCRIPTS = ("words", "dom", "icons", "tensors", "steps", "layout", "graph", "gestures", "node", "trees", "recursion")
_SCRIPTS += ("memory", "search", "paint", "paper", "main")  # each behind those it imports
_IMPORT = re.compile(r"^import (\{[^}]*\}) from \"\./(\w+)\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) (\w+))", re.MULTILINE)


@dataclass(frozen=True, repr=False)
class Page:
    """What ``mg.explain`` returns: ``page.save("page.html")``, ``page.text``, ``page.data``; notebooks show it."""

    data: dict[str, Any]

    @cached_property
    def html(self) -> str:
        """The whole page."""
        return assemble(self.data)

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


def assemble(data: dict[str, Any]) -> str:
    """The page around ``data``. Its own script and style are allowed by their hashes, everything else is forbidden."""
    template, style, script = sources()
    allowed = {"script-src": script, "style-src": style}
    policy = "; ".join(["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"])
    for what, text in allowed.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        policy += f"; {what} 'sha256-{digest}'"
    parts = {"policy": policy, "style": style, "script": script, "data": inert(data)}
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m.group(1)], template)


def inert(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever the names and lines in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def sources() -> tuple[str, str, str]:
    """Template, style and script."""
    folder = resources.files("memograd.explain") / "page"
    template, style, library = (
        (folder / name).read_text(encoding="utf-8") for name in ("index.html", "style.css", "vendor/dagre.min.js")
    )
    modules = [_enclosed(name, (folder / f"{name}.js").read_text(encoding="utf-8")) for name in _SCRIPTS]
    return template, style, "\n".join([library.rsplit("//# sourceMappingURL", 1)[0], *modules])


def _enclosed(name: str, module: str) -> str:
    """A module as a function of its own scope: pages opened from disk cannot import one file from another."""
    names = ", ".join(_EXPORT.findall(module))
    body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = $\2;\n", module))
    return f'const ${name} = (() => {{\n"use strict";\n{body}return {{ {names} }};\n}})();'

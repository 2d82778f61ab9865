"""One HTML file out of a frame that all pages share (`frame.html`), a body, style sheets, scripts and
data: nothing is compiled, nothing is fetched, and no text of the user's becomes markup or script.

Scripts are JavaScript modules in files of their own. A page that is opened from disk cannot import one file from
another, so each becomes a function that returns what it exports.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

IMPORT = re.compile(r"^import (\{[^}]*\}) from \"\./(\w+)\.js\";\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) (\w+))", re.MULTILINE)


@dataclass(frozen=True)
class Bundle:
    """The files of a page.

    Attributes:
        body: HTML, what stands in the page before its script has run.
        libraries: scripts that are taken as they are.
        scripts: modules, each behind those it imports; a module is called as its file is.
    """

    body: Traversable
    styles: Sequence[Traversable]
    libraries: Sequence[Traversable]
    scripts: Sequence[Traversable]

    @cached_property
    def style(self) -> str:
        return "\n".join(_read(file) for file in self.styles)

    @cached_property
    def script(self) -> str:
        libraries = [_read(file).rsplit("//# sourceMappingURL", 1)[0] for file in self.libraries]
        return "\n".join([*libraries, *map(_enclosed, self.scripts)])

    def assemble(self, data: Any) -> str:
        """The page around ``data``. Its own script and style are allowed by their hashes, all else is forbidden."""
        policy = "; ".join(["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"])
        for what, text in {"script-src": self.script, "style-src": self.style}.items():
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            policy += f"; {what} 'sha256-{digest}'"
        parts = {"policy": policy, "style": self.style, "script": self.script}
        parts |= {"body": _read(self.body), "data": inert(data)}
        frame = _read(resources.files("memograd.explain") / "frame.html")
        return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m.group(1)], frame)


def inert(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever the names and lines in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _read(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")


def _enclosed(file: Traversable) -> str:
    """A module as a function of its own scope."""
    module = _read(file)
    names = ", ".join(EXPORT.findall(module))
    body = EXPORT.sub("", IMPORT.sub(r"const \1 = $\2;\n", module))
    return f'const ${file.name.removesuffix(".js")} = (() => {{\n"use strict";\n{body}return {{ {names} }};\n}})();'

"""What the doctor has to say: findings, each with its place, its evidence and what to do. Read by people (``print``)
and by programs (``to_json``).

error  log at the edge of its domain: 1 of 64 elements is -inf
       where     train.py:31 in module 'head', forward
                     loss = -torch.log(p).mean()
       operator  aten.log.default, element [3]: log(0.0) = -inf
       evidence  float64 gives -inf too: it is no rounding
       do        loss = -torch.log(p.clamp_min(1e-07)).mean()
       tried     with this the step is finite
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from memograd.doctor.curves import svg
from memograd.doctor.page import page
from memograd.findings import Findings, Severity, counted, listed

Phase = Literal["", "forward", "backward", "update"]
_INDENT = 7  # of what stands below the first line of a finding
_LABEL = 10


@dataclass(frozen=True)
class Where:
    """A place in the program.

    Attributes:
        module: the dotted path of the module in which it is; empty for the outermost one.
        source: file and line (``model.py:31``); ``line``: the text of that line.
        op: the operator, as in a printed graph (``aten.log.default``).
        phase: whether the operator runs in the ``forward`` pass, in the ``backward`` pass as a product of a rule, or in
            the ``update``.
        rule: in the backward pass, the forward operator whose derivative it belongs to, and that rule's formula.
        index: of the element, in the operator's result.
    """

    module: str = ""
    source: str = ""
    line: str = ""
    op: str = ""
    phase: Phase = ""
    rule: str = ""
    index: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """Without the line itself and the operator."""
        source = self.source or ("" if self.module else "a place that is not known")
        parts = [source, f"in module {self.module!r}" if self.module else ""]
        return " ".join(p for p in parts if p) + (f", {self.phase}" if self.phase else "")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        severity: ``error``: numbers are wrong or lost. ``warning``: it trains worse than it could. ``note``: good to
            know.
        kind: what sort of thing, always in the same words: ``log at the edge of its domain``, ``dead units``, ...
        what: a sentence, or the rest of the first line.
        where: the place.
        evidence: what was measured that says so, a sentence each.
        fix: what to do, one or two lines of code or a sentence.
        tried: what came of it when it was tried; empty where it was not.
        names: the parameters (or inputs) concerned, all of them.
        numbers: the measurements, for programs.
    """

    severity: Severity
    kind: str
    what: str
    where: Where = Where()
    evidence: tuple[str, ...] = ()
    fix: str = ""
    tried: str = ""
    names: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What stands below the first line: a label and a text each, in the order in which it is read."""
        where = self.where
        rows = [("where", where.text)] if where.source or where.module else []
        rows += [("", f"    {where.line.strip()}")] if where.line else []
        index = f", element {list(where.index)}" if where.index is not None else ""
        rows += [("operator", where.op + index)] if where.op else []
        rows += [("rule", where.rule)] if where.rule else []
        rows += [("evidence" if k == 0 else "", text) for k, text in enumerate(self.evidence)]
        rows += [("concerns", listed(self.names))] if self.names else []
        rows += [("do" if k == 0 else "", text) for k, text in enumerate(self.fix.splitlines())]
        return rows + ([("tried", self.tried)] if self.tried else [])

    def __str__(self) -> str:
        lines = [f"{self.severity + ' ':{_INDENT}s}{self.kind}{f': {self.what}' if self.what else ''}"]
        return "\n".join(lines + [f"{'':{_INDENT}s}{label:{_LABEL}s}{text}" for label, text in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        return asdict(self)


@dataclass(frozen=True)
class Report(Findings[Finding]):
    """Findings about a model, the severest first.

    Attributes:
        name: of the model or function.
        headline: one line above the findings; by default how many there are.
        numbers: measurements that belong to no finding.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    headline: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        findings = [f.to_dict() for f in self.findings]
        return {
            "ok": self.ok,
            "name": self.name,
            "headline": self.headline,
            "findings": findings,
            "numbers": self.numbers,
        }

    def save(self, path: str | Path) -> Path:
        """Write the report: a page (``.html``), its curves alone (``.svg``), data (``.json``), else text."""
        path = Path(path)
        if path.suffix in (".html", ".htm"):
            text = page(self.name, self.findings, self.numbers)
        elif path.suffix == ".svg":
            text = svg(self.numbers.get("steps") or ())
        else:
            text = self.to_json() if path.suffix == ".json" else f"{self}\n"
        path.write_text(text, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        style = "width:100%;height:600px;border:1px solid #ccc;border-radius:8px"
        inside = html.escape(page(self.name, self.findings, self.numbers), quote=True)
        return f'<iframe sandbox="" style="{style}" srcdoc="{inside}"></iframe>'

    def __str__(self) -> str:
        return "\n".join([self.headline or f"{self.name}: {counted(self.findings)}", *map(str, self.findings)])

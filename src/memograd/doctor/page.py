"""A report as one HTML file: what is wrong, worst first, each with its place, evidence and fix; then the curves.

Plain HTML and CSS, no script; nothing is fetched, and no text of the user's becomes markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from memograd.doctor.curves import svg
from memograd.findings import Severity, counted

_STYLE = """
:root{color-scheme:light;--ink:#18181b;--soft:#52525b;--edge:#d4d4d8;--error:#b91c1c;--warning:#b45309;--note:#1d4ed8}
*{box-sizing:border-box}
body{margin:0 auto;max-width:960px;padding:32px 20px 64px;color:var(--ink);background:#fafafa;
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:22px;margin:0 0 4px}.verdict{margin:0 0 24px;color:var(--soft)}h2{font-size:17px;margin:36px 0 12px}
article{background:#fff;border:1px solid var(--edge);border-left:5px solid var(--soft);border-radius:8px;
 padding:14px 18px;margin:0 0 14px}
.error{border-left-color:var(--error)}.warning{border-left-color:var(--warning)}.note{border-left-color:var(--note)}
h3{font-size:16px;margin:0 0 8px;font-weight:600}
.tag{font-size:11px;font-weight:700;letter-spacing:.04em;text-transform:uppercase;margin-right:8px}
.error .tag{color:var(--error)}.warning .tag{color:var(--warning)}.note .tag{color:var(--note)}
dl{display:grid;grid-template-columns:84px 1fr;gap:4px 12px;margin:0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px;background:#f4f4f5;
 border-radius:4px;padding:2px 6px;white-space:pre-wrap;display:inline-block}
.curves svg{width:100%;height:auto}
table{border-collapse:collapse;width:100%;background:#fff;font-size:13px}
th,td{text-align:left;padding:5px 10px;border:1px solid var(--edge);overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums}
@media (max-width:560px){dl{grid-template-columns:1fr;gap:0}dt{margin-top:6px}}
@media print{body{background:#fff}article{break-inside:avoid}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CODE = {"operator", "rule"}
_ROWS = 25  # of the table of digits


class Finding(Protocol):
    """What the page shows of one."""

    @property
    def severity(self) -> Severity: ...
    @property
    def kind(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def rows(self) -> list[tuple[str, str]]: ...


def page(name: str, findings: Sequence[Finding], numbers: Mapping[str, Any]) -> str:
    """The whole page."""
    said = verdict = counted(findings)
    loss = numbers.get("loss")
    if isinstance(loss, float):
        verdict += f"; the loss of this batch is {loss:.6g}"
    body = [f"<h1>{_text(name)}</h1>", f'<p class="verdict">{_text(verdict)}</p>', *map(_finding, findings)]
    if picture := svg(numbers.get("steps") or ()):
        body += [f"<h2>{len(numbers['steps'])} steps</h2>", f'<div class="curves">{picture}</div>']
    if rows := (numbers.get("precision") or {}).get("operators"):
        body += ["<h2>Digits lost, beside float64</h2>", _digits(rows)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_text(name)}: {_text(said)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _finding(finding: Finding) -> str:
    rows, label = [], ""
    for name, text in finding.rows:
        label, line = name or label, text.strip() if not name and label == "where" else text
        code = label in _CODE or (not name and label == "where")
        shown = f'<span class="code">{_text(line)}</span>' if code else _text(line)
        rows.append(f"<dt>{_text(name)}</dt><dd>{shown}</dd>")
    head = f'<span class="tag">{_text(finding.severity)}</span>{_text(finding.kind)}'
    what = f": {_text(finding.what)}" if finding.what else ""
    return f'<article class="{_text(finding.severity)}"><h3>{head}{what}</h3><dl>{"".join(rows)}</dl></article>'


def _digits(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ("operator", "phase", "module", "source", "digits_in", "digits_out", "lost")
    titles = ("operator", "pass", "module", "line", "digits in", "digits out", "lost")
    head = "".join(f"<th>{t}</th>" for t in titles)
    body = []
    for row in rows[:_ROWS]:
        cells = [
            f'<td class="n">{row[c]:.1f}</td>' if c.startswith(("digits", "lost")) else f"<td>{_text(row[c])}</td>"
            for c in columns
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

"""The derivative table as text: for the terminal, as JSON, and as the page ``docs/table.md``."""

from __future__ import annotations

import fnmatch
from typing import Any

from memograd.rules.registry import Entry, entries
from memograd.verify.measured import Measured

_HEAD = """# All entries of the derivative table

Written by `memograd rules --markdown`; do not edit. ȳ is the adjoint of the result, x̄ that of an argument.

*First, second, complex*: in how many passing samples of PyTorch's operator database (OpInfo) the rule gave a first
derivative, was differentiated again, and met complex numbers. The counts are measured, by `make sweep`, against
`torch.autograd`; {runs}. 0 says only that no sample got there: {zero} of the {rules} rules and expansions have no
sample at all and are held by the tests that `tests/verify/test_sweep.py` names. A second derivative exists wherever the
formula is made of operators that are in the table; where it is not, differentiating again raises an error.
"""


def select(pattern: str = "", kinds: tuple[str, ...] = ()) -> list[Entry]:
    """The entries whose operator contains ``pattern`` (or matches it, with ``*``), of these kinds (default: all)."""
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return [e for e in entries() if fnmatch.fnmatch(str(e.target), wanted) and (not kinds or e.kind in kinds)]


def as_dict(entry: Entry, measured: Measured) -> dict[str, Any]:
    """One entry with what was measured."""
    row = {"operator": str(entry.target), "kind": entry.kind, "formula": entry.formula, "latex": entry.latex}
    return {**row, "file": entry.file, "samples": measured.status(entry.target)}


def text(shown: list[Entry], measured: Measured) -> str:
    """For the terminal: one entry a line."""
    lines = [f"{'operator':48s} {'kind':9s} {'first':>5s} {'second':>6s} {'complex':>7s}  {'rule':26s} formula"]
    for entry in shown:
        n = measured.status(entry.target)
        counts = f"{n['first']:5d} {n['second']:6d} {n['complex']:7d}"
        lines.append(f"{entry.target!s:48s} {entry.kind:9s} {counts}  {entry.file:26s} {entry.formula}")
    lines.append(f"{len(shown)} entries; first, second, complex: passing samples (measured: {_runs(measured)})")
    return "\n".join(lines)


def markdown(measured: Measured) -> str:
    """The page of all entries, one section for each file of rules; the constants, which state nothing, as a list."""
    files: dict[str, list[Entry]] = {}
    own = [e for e in entries() if e.own]  # a program may have rules of its own
    for entry in own:
        if entry.kind in ("rule", "expansion", "refused"):
            files.setdefault(entry.file.split(":")[0], []).append(entry)
    used = [e for in_file in files.values() for e in in_file if e.kind != "refused"]
    zero = sum(not any(measured.status(e.target).values()) for e in used)
    parts = [_HEAD.format(runs=_runs(measured), zero=zero, rules=len(used))]
    for name in sorted(files):
        parts.append(f"## [{name}](../src/memograd/rules/{name})\n\n{_section(files[name], measured)}")
    for kind, meaning in (("zero", "the derivative is zero almost everywhere"), ("constant", "no adjoint flows")):
        names = sorted({str(e.target.overloadpacket) for e in own if e.kind == kind})
        parts.append(f"## {kind.capitalize()}: {meaning}\n\n{', '.join(f'`{n}`' for n in names)}\n")
    return "\n".join(parts)


def _section(in_file: list[Entry], measured: Measured) -> str:
    lines = ["| operator | formula | first | second | complex |", "|---|---|---|---|---|"]
    for entry in in_file:
        n = measured.status(entry.target)
        formula = f"refused: {entry.formula}" if entry.kind == "refused" else entry.formula
        shown = formula.replace("|", "\\|")
        if entry.latex:
            shown += f" $`{entry.latex}`$".replace("|", "\\|")
        lines.append(f"| `{entry.target}` | {shown} | {n['first']} | {n['second']} | {n['complex']} |")
    return "\n".join(lines) + "\n"


def _runs(measured: Measured) -> str:
    if not measured.runs:
        return "nothing was measured yet: make sweep"
    return "; ".join(
        f"{name}: {run['samples']} samples, at most {run['limit'] or 'all'} an entry, {run['dtype']}, "
        f"order {run['order']}, PyTorch {run['torch']}"
        for name, run in measured.runs.items()
        if name != "of a derivative"
    )

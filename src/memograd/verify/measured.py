"""What is known about each rule by measurement: in how many passing samples of PyTorch's operator database it was used.

``watch`` notes every rule that is applied; a sweep (``sweep.py``) keeps the notes of the samples that pass. The file
``measured.json`` beside this one holds the counts of the last ``make sweep``; nothing in it is written by hand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from memograd._torch import pytree
from memograd.rules.registry import observed

FILE = Path(__file__).with_suffix(".json")


@dataclass
class Watch:
    """The operators whose rule (or expansion) was applied since the last ``clear``.

    Attributes:
        first: on the way to a first derivative.
        second: on the way to a derivative of a derivative, where backward kernels are differentiated.
        complex: with complex numbers among the adjoint and the arguments, at any order.
    """

    first: set[Any] = field(default_factory=set)
    second: set[Any] = field(default_factory=set)
    complex: set[Any] = field(default_factory=set)
    outer: bool = False  # the derivative that is taken now is one of a derivative

    def note(self, target: Any, values: Any) -> None:
        (self.second if self.outer else self.first).add(target)
        if any(isinstance(v, torch.Tensor) and v.is_complex() for v in pytree.tree_leaves(values)):
            self.complex.add(target)

    def clear(self) -> None:
        for counts in (self.first, self.second, self.complex):
            counts.clear()

    @contextmanager
    def level(self, outer: bool) -> Iterator[None]:
        """Rules applied inside belong to a derivative of a derivative, or not."""
        before, self.outer = self.outer, outer
        try:
            yield
        finally:
            self.outer = before


@contextmanager
def watch() -> Iterator[Watch]:
    """Note the rules that are applied inside."""
    noted = Watch()
    with observed(lambda entry, values: noted.note(entry.target, values)):
        yield noted


@dataclass
class Measured:
    """The counts: ``rules[operator][column]`` passing samples; ``runs[column]`` says what was run."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def put(self, column: str, counts: Mapping[Any, int], run: dict[str, Any]) -> None:
        """Replace a column."""
        for row in self.rules.values():
            row.pop(column, None)
        for target, count in counts.items():
            self.rules.setdefault(str(target), {})[column] = count
        self.rules = {name: row for name, row in sorted(self.rules.items()) if row}
        self.runs[column] = run

    def status(self, target: Any) -> dict[str, int]:
        """Passing samples in which the rule gave a first derivative, was differentiated again, met complex numbers."""
        row = self.rules.get(str(target), {})
        return {
            "first": row.get("first", 0) + row.get("of a derivative", 0),
            "second": row.get("second", 0),
            "complex": row.get("complex", 0),
        }


def load(path: Path = FILE) -> Measured:
    """The counts of the last sweep; empty where there was none."""
    return Measured(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Measured()


def save(measured: Measured, path: Path = FILE) -> None:
    """Write the counts, one operator a line."""
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in measured.rules.items())
    path.write_text(f'{{\n  "runs": {json.dumps(measured.runs)},\n  "rules": {{\n{rows}\n  }}\n}}\n', encoding="utf-8")


def columns(order: int, dtype: torch.dtype) -> list[str]:
    """The columns that a sweep of this order and dtype measures."""
    if dtype.is_complex:
        return ["complex"] if order == 1 else []
    if dtype != torch.float64:
        return []
    return ["first"] if order == 1 else ["second", "of a derivative"]


def add_up(tallies: Iterable[Any], column: str) -> Counter[Any]:
    """Over all tallies, the passing samples in which each rule was used."""
    total: Counter[Any] = Counter()
    for tally in tallies:
        total.update({"complex": tally.complex, "of a derivative": tally.outer}.get(column, tally.used))
    return total

"""What all reports of findings have in common: their order, how they are counted and listed in a line, and as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_NAMED = 4  # parameters that a line of text names


class Finding(Protocol):
    """What every finding says of itself."""

    @property
    def severity(self) -> Severity: ...


F = TypeVar("F", bound=Finding)


class Findings(Generic[F]):
    """What every report can be asked."""

    findings: tuple[F, ...]

    @property
    def ok(self) -> bool:
        """No error and no warning."""
        return all(f.severity == "note" for f in self.findings)

    def of(self, severity: Severity) -> list[F]:
        """Those that are so severe."""
        return [f for f in self.findings if f.severity == severity]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The same as one JSON object; a number that is not finite is a string ("nan", "inf", "-inf")."""
        return json.dumps(jsonable(self.to_dict()))


def severest_first(findings: Iterable[F]) -> tuple[F, ...]:
    return tuple(sorted(findings, key=lambda f: _ORDER.index(f.severity)))


def counted(findings: Iterable[Finding]) -> str:
    """``2 errors, 1 note``."""
    counts = Counter(f.severity for f in findings)
    return ", ".join(f"{n} {s}{'s' * (n != 1)}" for s in _ORDER if (n := counts[s])) or "nothing to report"


def listed(names: Sequence[str]) -> str:
    """Some of ``names``, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def jsonable(value: Any) -> Any:
    """``value`` as JSON knows it, which has no NaN and no tuples."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

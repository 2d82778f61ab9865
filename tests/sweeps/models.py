"""Every small model for two steps of SGD in float64, against plain PyTorch: loss, parameters, buffers.

python tests/sweeps/models.py [NAME ...] [--record]   prints pass, refused (why), wrong or crash; fails on the last two

Each runs with both kinds of attention (sdpa, eager), with dropout and without. ``--record`` writes ``docs/models.md``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from idioms.agreement import check_step, plain_steps
from sweeps.architectures import ATTENTIONS, build, catalog

import memograd as mg
from memograd.errors import GradientMismatchError, MemogradError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
BAD = ("wrong", "crash")
WAYS = list(itertools.product(ATTENTIONS, (True, False)))  # attention, dropout


@dataclass(frozen=True)
class Verdict:
    """``pass``, ``refused``, ``wrong``, ``crash``, or ``untried``: PyTorch, or this version, has no such step."""

    kind: str
    why: str = ""
    operators: int = 0
    seconds: float = 0.0  # of capture and differentiation

    def __str__(self) -> str:
        return f"{self.kind} ({self.why})" if self.why else self.kind


class Timed(mg.TrainStep):
    """Says how long it took to make its programs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds, self._build = 0.0, self._cache.build
        self._cache.build = self._timed

    def _timed(self, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._build(*args, **options)
        finally:
            self.seconds += time.perf_counter() - start


def verdict(name: str, dropout: bool, attention: str = "sdpa") -> Verdict:
    try:
        model, batch = build(name, dropout, attention)
        plain_steps(copy.deepcopy(model), (), batch, steps=1)
    except Exception as error:
        return Verdict("untried", _said(error))
    try:
        step = check_step(model, steps=2, tolerance=1e-8, kind=Timed, **batch)
    except (AssertionError, GradientMismatchError) as error:
        return Verdict("wrong", _said(error))
    except MemogradError as error:
        return Verdict("refused", _said(error))
    except Exception as error:
        return Verdict("crash", _said(error))
    assert isinstance(step, Timed)
    return Verdict("pass", "", len(step.graph.nodes), step.seconds / len(step.captures))


def sweep(names: list[str]) -> dict[str, list[Verdict]]:
    """Print each verdict as it comes; all of them, by name, in the order of ``WAYS``."""
    verdicts: dict[str, list[Verdict]] = {name: [] for name in names}
    for name, (attention, dropout) in itertools.product(names, WAYS):
        verdicts[name].append(verdict(name, dropout, attention))
        label = f"{name} ({attention}{'' if dropout else ', no dropout'})"
        print(f"{label:40} {verdicts[name][-1]}", flush=True)
    return verdicts


def page(verdicts: dict[str, list[Verdict]]) -> str:
    """The docs page."""
    import torch
    import transformers

    names = [f"{attention}{'' if dropout else ', no dropout'}" for attention, dropout in WAYS]
    whole = sum(all(v.kind == "pass" for v in row) for row in verdicts.values())
    lines = [
        "# Models of transformers",
        "",
        "Small models built from their config classes: two steps of SGD through `mg.TrainStep` in float64, on the",
        "models as they are, against the same steps in plain PyTorch under the same seeds. Loss, every parameter and",
        "every buffer agree to 1e-8 of the largest value wherever the table says *pass*. `make models` writes this.",
        "",
        f"{whole} of {len(verdicts)} architectures pass in all four ways (transformers {transformers.__version__}, "
        f"torch {torch.__version__.split('+')[0]}).",
        "",
        "Operators are those of the whole step: forward, backward and update, with dropout. Seconds are for capture",
        "and differentiation, on one thread of a busy machine.",
        "",
        f"| model | {' | '.join(names)} | operators | seconds |",
        f"|---|{'---|' * len(names)}---:|---:|",
    ]
    reasons: dict[str, list[str]] = {}
    for name, row in verdicts.items():
        best = next((v for v in row if v.kind == "pass"), row[0])
        lines.append(f"| {name} | {' | '.join(v.kind for v in row)} | {best.operators:,} | {best.seconds:.2f} |")
        for v in row:
            if v.kind != "pass" and name not in reasons.setdefault(str(v), []):
                reasons[str(v)].append(name)
    if reasons:
        lines += ["", "What does not pass, and why (*untried*: plain PyTorch does not do this step either):", ""]
        lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


def _said(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:150]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--record", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    verdicts = sweep(options.names or list(catalog()))
    counts = Counter(v.kind for row in verdicts.values() for v in row)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    if options.record:
        _, *sections = PAGE.read_text(encoding="utf-8").partition("\n## ")  # of ``automatic.py``
        PAGE.write_text(page(verdicts) + "".join(sections), encoding="utf-8")
    return 1 if any(counts[kind] for kind in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())

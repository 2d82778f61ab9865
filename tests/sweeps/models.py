"""Every small model for one step of SGD in float64, with dropout and without, against the same step in plain PyTorch.

python tests/sweeps/models.py [NAME ...]      prints pass, refused (why), wrong or crash; fails on the last two
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from idioms.agreement import check_step, plain_steps
from sweeps.architectures import build, catalog

from memograd.errors import MemogradError

BAD = ("wrong", "crash")


def verdict(name: str, dropout: bool) -> str:
    """``pass``, or what is the matter and why."""
    try:
        model, batch = build(name, dropout)
        plain_steps(copy.deepcopy(model), (), batch, steps=1)
    except Exception as error:
        return f"untried ({type(error).__name__}: {_line(error)})"  # PyTorch, or this version, has no such step
    try:
        check_step(model, steps=1, tolerance=1e-8, **batch)
    except AssertionError as error:
        return f"wrong ({_line(error)})"
    except MemogradError as error:
        return f"refused ({type(error).__name__}: {_line(error)})"
    except Exception as error:
        return f"crash ({type(error).__name__}: {_line(error)})"
    return "pass"


def sweep(names: list[str]) -> int:
    """Print the table; the number of wrong steps and crashes."""
    counts: Counter[str] = Counter()
    for name in names:
        for dropout in (True, False):
            found = verdict(name, dropout)
            counts[found.split(" ")[0]] += 1
            print(f"{name + ('' if dropout else ' (no dropout)'):35} {found}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return sum(counts[kind] for kind in BAD)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:150]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(1 if sweep(sys.argv[1:] or list(catalog())) else 0)

"""``memograd doctor``: why a user's own model does not learn, and which operator of it does that."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from memograd.cli.arguments import factory, positive, printed
from memograd.cli.task import load

SUMMARY = "Find out why a model does not learn: gradients that are missing, vanish, explode, cancel."


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    factory(command, "(model, args), (model, criterion, args) or (model, criterion, optimizer, args)")
    command.add_argument("--steps", type=positive, metavar="N", help="follow a run of N steps on this batch")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report as a page, with the curves of --steps"
    )
    dtypes = ["asis", "float16", "bfloat16"]
    command.add_argument(
        "--precision",
        nargs="?",
        const="asis",
        choices=dtypes,
        help="also say which operators lose digits: as the model computes now, or under autocast to a dtype",
    )


def run(a: argparse.Namespace) -> int:
    """Look into the model and print the report; 1 where something is wrong."""
    import torch

    from memograd.doctor.diagnose import look_into
    from memograd.doctor.follow import Run

    task = load(a.factory)
    precision = a.precision is not None if a.precision in (None, "asis") else getattr(torch, a.precision)
    report = look_into(
        task.model,
        task.args,
        dict(task.options),
        task.criterion,
        optimizer=task.optimizer,
        precision=precision,
        run=Run(a.steps) if a.steps else None,
    )
    if a.html:
        report.save(a.html)
        if not a.quiet:
            print(f"wrote {a.html}; open it in a browser", file=sys.stderr)
    return printed(report, a)

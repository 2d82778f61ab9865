"""``memograd check``: a user's own model before it is trained, or with ``--opinfo`` the derivative table."""

from __future__ import annotations

import argparse
import json
import warnings

from memograd.cli.arguments import budget, factory, positive, printed, seed
from memograd.cli.task import load

SUMMARY = "Look a model over before it is trained, or the derivative table."


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    what = command.add_mutually_exclusive_group(required=True)
    factory(what, "(model, args) or (model, criterion, args)", nargs="?")
    what.add_argument("--opinfo", action="store_true", help="PyTorch's own samples of its operators")
    command.add_argument(
        "--budget", type=budget, help="whether the model fits it: 2GiB, bytes, or 50%% of what it takes"
    )
    dtypes = ["float64", "float32", "bfloat16", "float16", "complex128"]
    command.add_argument("--dtype", default="float64", choices=dtypes, help="default: float64")
    command.add_argument("--order", type=int, default=1, choices=[1, 2], help="of the derivative (default: 1)")
    command.add_argument("--limit", type=positive, default=3, help="most samples of an operator (default: 3)")
    command.add_argument("--all", action="store_true", help="all samples")
    command.add_argument("--seed", type=seed, default=0, help="which samples are drawn (default: 0)")
    command.add_argument("--only", default="", metavar="NAME", help="only operators whose name contains this")
    command.add_argument("--record", action="store_true", help="write what was measured to the package's measured.json")


def run(a: argparse.Namespace) -> int:
    """Look over a model, or sweep PyTorch's samples."""
    if a.factory is None:
        return _check_opinfo(a)
    from memograd.inspection.preflight import look_over

    task = load(a.factory)
    report = look_over(task.model, task.args, dict(task.options), task.criterion, a.budget)
    return printed(report, a)


def _check_opinfo(a: argparse.Namespace) -> int:
    from memograd.cli.opinfo import as_dict, check_opinfo, closing

    def say(line: str) -> None:
        if not a.quiet and not a.json:
            print(line, flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's samples call what is deprecated too
        limit = None if a.all else a.limit
        tallies, totals = check_opinfo(a.dtype, a.order, limit, a.seed, a.only, a.record, say)
    say(closing(totals))
    if a.json:
        print(json.dumps({**totals, "tallies": [as_dict(t) for t in tallies]}))
    return 1 if totals["samples"]["wrong"] else 0

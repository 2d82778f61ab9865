"""``memograd plan``: how a user's own model fits a byte budget, without training it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from memograd.cli.arguments import budget, factory
from memograd.cli.task import load
from memograd.errors import MemogradError

SUMMARY = "Plan a model's forward and backward pass within a byte budget."


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    factory(command, "(model, args) or (model, criterion, args)")
    command.add_argument(
        "--budget", required=True, type=budget, help="2GiB, 600MB, bytes, or 50%% of what it takes without a plan"
    )
    command.add_argument(
        "--backend", default="eager", choices=["eager", "inductor"], help="of single operators, or of fused kernels"
    )
    command.add_argument(
        "--largest-batch",
        action="store_true",
        help="find the largest batch that fits: the factory's tensors are repeated along their first dimension",
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory over the step (.svg, .png, .pdf)")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the plan, for memory_budget=Plan.from_json()")


def run(a: argparse.Namespace) -> int:
    """Plan, print, draw and save."""
    from memograd.train.largest import largest_batch
    from memograd.train.planning import plan_for

    task = load(a.factory)
    size = None
    if a.largest_batch:
        if a.backend != "eager":
            raise MemogradError("--largest-batch plans single operators: leave --backend out")
        size, plan = largest_batch(task.model, task.repeated, a.budget, task.criterion)
    else:
        plan = plan_for(task.model, task.args, dict(task.options), task.criterion, a.budget, a.backend == "inductor")
    if a.plot:
        plan.plot(a.plot)
    if a.save:
        a.save.write_text(plan.to_json() + "\n", encoding="utf-8")
    files = [str(f) for f in (a.plot, a.save) if f]
    if a.json:
        numbers = {**plan.numbers(), **({} if size is None else {"largest_batch": size})}
        print(json.dumps({**numbers, "files": files, "plan": json.loads(plan.to_json())}))
    elif not a.quiet:
        if size is not None:
            print(f"The largest batch that fits {a.budget} has {size} samples.\n")
        print(plan)
        if files:
            print(f"wrote {', '.join(files)}")
    return 0

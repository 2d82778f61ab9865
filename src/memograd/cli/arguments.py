"""What commands share: the argument that names a model, the values of options (argparse's ``type``, each with a message
of its own), and how a report is printed."""

from __future__ import annotations

import argparse
from typing import Any

from memograd.errors import DataError


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def budget(text: str) -> str:
    """An option's value that can be read as a budget."""
    from memograd.memory.budget import parse_budget

    try:
        parse_budget(text, 100)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def factory(command: Any, returns: str, **options: Any) -> None:
    """The argument that names the model to work on."""
    text = f"a function without arguments that returns {returns}"
    command.add_argument("factory", metavar="PACKAGE.MODULE:FACTORY", help=text, **options)


def printed(report: Any, a: argparse.Namespace) -> int:
    """Print a report as the options say; 1 where something is wrong."""
    if a.json:
        print(report.to_json())
    elif not a.quiet:
        print(report)
    return 0 if report.ok else 1

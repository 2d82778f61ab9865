"""``memograd explain``: how the gradients of a network come about, as text or as a page to step through."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memograd.cli.arguments import budget, seed
from memograd.cli.task import load
from memograd.errors import MemogradError

if TYPE_CHECKING:
    from memograd.explain.page import Page

SUMMARY = "Show how the recursion finds each gradient, with numbers."
_EXAMPLES = ("xor", "cnn", "rnn")


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "what",
        metavar="WHAT",
        help="xor, cnn, rnn, or PACKAGE.MODULE:FACTORY, which returns (model, args) or (model, criterion, args)",
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page for the browser to step through")
    command.add_argument("--lang", default="en", choices=["en", "zh"], help="of the page (default: en)")
    command.add_argument(
        "--memory-budget", type=budget, metavar="BUDGET", help="also show the step within 2GiB, bytes, or 50%%"
    )
    command.add_argument(
        "--sample", type=seed, default=1, help="which line of the data of xor, cnn or rnn (default: 1; 0 xor 1)"
    )
    command.add_argument("--seed", type=seed, default=5, help="of the weights of xor, cnn or rnn (default: 5)")


def run(a: argparse.Namespace) -> int:
    """Print the text, or write the page."""
    if a.what == "xor" and a.html is None and a.memory_budget is None and a.lang == "en":
        return _xor(a)
    page = _page(a)
    if a.html is None:
        if a.json:
            print(page.to_json())
        elif not a.quiet:
            print(page.text)
        return 0
    size = page.save(a.html).stat().st_size
    if a.json:
        print(json.dumps({"file": str(a.html), "bytes": size, "title": page.data["title"], **page.data["summary"]}))
    elif not a.quiet:
        print(f"wrote {a.html}: {size:,} bytes, {page.data['summary']['operators']:,} operators; open it in a browser")
    return 0


def _xor(a: argparse.Namespace) -> int:
    from memograd.explain.explain import explain_xor
    from memograd.explain.text import render

    explanation = explain_xor(sample=_sample(a), seed=a.seed)
    if a.json:
        print(json.dumps(explanation.as_dict()))
    elif not a.quiet:
        print(render(explanation))
    return 0


def _page(a: argparse.Namespace) -> Page:
    from memograd.explain.examples import example
    from memograd.explain.page import explain

    options: dict[str, Any] = {}
    if a.what in _EXAMPLES:
        model, criterion, args = example(a.what, _sample(a), a.seed)
    elif ":" in a.what:
        task = load(a.what)
        model, criterion, args, options = task.model, task.criterion, task.args, dict(task.options)
    else:
        raise MemogradError(f"{a.what!r} is none of {', '.join(_EXAMPLES)}, and no PACKAGE.MODULE:FACTORY")
    return explain(model, *args, loss=criterion, memory_budget=a.memory_budget, lang=a.lang, **options)


def _sample(a: argparse.Namespace) -> int:
    lines = 4 if a.what == "xor" else 1000
    if a.sample >= lines:
        raise MemogradError(f"--sample of {a.what} must be from 0 to {lines - 1}, got {a.sample}")
    return a.sample

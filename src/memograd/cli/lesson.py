"""``memograd lesson``: the lecture as one page that can be touched."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

SUMMARY = "Write the lecture as one page to touch: from the chain rule to recursion and its table."


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument("--lang", default="en", choices=["en", "zh"], help="the page opens in it (default: en)")
    command.add_argument(
        "--output", type=Path, default=Path("lesson.html"), metavar="FILE", help="where to (default: lesson.html)"
    )


def run(a: argparse.Namespace) -> int:
    """Compute every section and write the page."""
    from memograd.explain.lesson.lesson import SECTIONS, lesson

    start, names = time.perf_counter(), list(SECTIONS)
    shown = sys.stderr.isatty() and not (a.quiet or a.json)

    def say(name: str) -> None:
        if shown:
            print(f"\r\033[K{names.index(name) + 1} of {len(names)}: {name} ", end="", file=sys.stderr, flush=True)

    page = lesson(a.lang, say)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    size = page.save(a.output).stat().st_size
    seconds = round(time.perf_counter() - start, 1)
    if a.json:
        print(json.dumps({"file": str(a.output), "bytes": size, "seconds": seconds, "sections": names}))
    elif not a.quiet:
        print(f"wrote {a.output}: {size:,} bytes, computed in {seconds} s; open it in a browser")
    return 0

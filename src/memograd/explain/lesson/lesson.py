"""``memograd lesson``: the lecture as one page that can be touched, in two languages.

Each section has a file here, which lets the engine compute its numbers, a script in ``page/``, which shows them, and
its texts in ``words/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from memograd import draws
from memograd.errors import OptionError
from memograd.explain.bundle import Bundle
from memograd.explain.lesson import budget, digit, ladder, questions, seeds, slopes, time_steps, training
from memograd.explain.lesson.quiz import questions as quiz
from memograd.explain.lesson.texts import LANGUAGES, words

SCHEMA, VERSION = "memograd.lesson", 1

SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "why": slopes.along_weights,
    "chain": slopes.chains,
    "steps": training.recorded,
    "asking": questions.asked,
    "program": questions.program,
    "rungs": ladder.counts,
    "keeping": budget.plans,
    "digits": digit.images,
    "times": time_steps.gradients_in_time,
    "fates": seeds.fates,
}

_STYLES = ("palette", "picture")
_SHARED = ("icons", "tensors", "steps", "layout", "graph", "paint", "recursion", "trees")  # of the page of mg.explain
_OWN = ("figures", "quiz", "why", "chain", "network", "epochs", "asking", "program", "rungs", "keeping", "digits")
_OWN += ("pooling", "times", "fates", "main")  # each behind those it imports


@dataclass(frozen=True, repr=False)
class Lesson:
    """The page: ``lesson.save("lesson.html")``; ``data`` is what the engine computed for it."""

    data: dict[str, Any]

    @cached_property
    def html(self) -> str:
        return bundle().assemble({**self.data, "words": words()})

    def save(self, path: str | Path) -> Path:
        """Write the page; a browser opens it from disk."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path


def lesson(lang: str = "en", say: Callable[[str], None] = lambda section: None) -> Lesson:
    """Compute all sections; ``say`` is told the name of each before it begins.

    Raises:
        DataError: the digits are not installed.
    """
    if lang not in LANGUAGES:
        raise OptionError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    data: dict[str, Any] = {"schema": SCHEMA, "version": VERSION, "lang": lang, "torch": torch.__version__}
    digit.handwritten()  # where they are missing this is known at once
    with draws.same_draws(), torch.enable_grad():
        for name, compute in SECTIONS.items():
            say(name)
            data[name] = compute()
    return Lesson({**data, "quiz": quiz(data)})


@cache
def bundle() -> Bundle:
    """The files of the page."""
    own, shared = resources.files("memograd.explain.lesson") / "page", resources.files("memograd.explain") / "page"
    return Bundle(
        own / "body.html",
        [*(shared / f"{name}.css" for name in _STYLES), own / "style.css"],
        [shared / "vendor" / "dagre.min.js"],
        [
            shared / "dom.js",
            own / "words.js",
            *(shared / f"{name}.js" for name in _SHARED),
            *(own / f"{name}.js" for name in _OWN),
        ],
    )

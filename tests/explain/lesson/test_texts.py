"""Both languages say the same things, and the page asks for nothing that they do not say."""

from __future__ import annotations

import re
from pathlib import Path

from memograd.explain.lesson import texts
from memograd.explain.lesson.quiz import _QUESTIONS
from memograd.explain.lesson.seeds import FATES, SEEDS
from memograd.explain.lesson.time_steps import STEPS

PAGE = Path(texts.__file__).parent / "page"
PLACE = re.compile(r"\{(\w+)\}")  # where the page fills in a number


def leaves(words, path=""):
    """Every text with its key; of a list each with its number."""
    if isinstance(words, str):
        return {path: words}
    pairs = words.items() if isinstance(words, dict) else enumerate(words)
    return {key: text for name, inner in pairs for key, text in leaves(inner, f"{path}.{name}".strip(".")).items()}


EN, ZH = leaves(texts.read("en")), leaves(texts.read("zh"))


def test_neither_language_lacks_a_text_that_the_other_has():
    assert EN.keys() == ZH.keys()
    assert all(text.strip() for text in [*EN.values(), *ZH.values()])


def test_both_languages_fill_in_the_same_numbers_and_formulas():
    for pattern in (PLACE, re.compile(r"\$([^$]+)\$"), re.compile("`[^`]+`"), re.compile(r"\*\*$|^\*\*")):
        differing = [k for k in EN if sorted(pattern.findall(EN[k])) != sorted(pattern.findall(ZH[k]))]
        assert not differing


def test_settings_that_texts_name_are_those_of_the_sections():
    large = {}
    for words in (EN, ZH):
        for key, text in words.items():
            for number in re.findall(r"(?<![\w.])\d[\d,]*", PLACE.sub("", text)):
                if (value := int(number.replace(",", ""))) > 10:
                    large.setdefault(key, set()).add(value)
    assert large.pop("fates.title") == {SEEDS}
    size = {28, 14}  # of an image, and behind the pooling
    assert large.pop("digits.before") | large.pop("digits.behind") == size
    assert set().union(*large.values()) == {STEPS, STEPS - 1}
    assert {key.split(".")[0] for key in large} == {"times", "quiz"}


def test_chinese_is_chinese_and_english_is_not():
    han = re.compile(r"[\u4e00-\u9fff]")
    assert [key for key, text in EN.items() if han.search(text)] == ["page.language"]
    same = {key for key, text in ZH.items() if not han.search(text)}
    assert same <= {k for k in same if EN[k] == ZH[k]} | {"page.language"}


def test_every_text_that_the_page_asks_for_is_there():
    groups = {key.rsplit(".", 1)[0] for key in EN} | set(EN)
    asked = set()
    for file in PAGE.glob("*.js"):
        asked |= set(re.findall(r"\b(?:t|rich)\(\"([\w.]+)\"", file.read_text(encoding="utf-8")))
    assert len(asked) > 60
    assert {key for key in asked if (key if "." in key else f"common.{key}") not in groups} == set()
    for name in _QUESTIONS:
        assert {f"quiz.{name}.ask", f"quiz.{name}.because"} <= EN.keys()
    for fate in FATES:
        assert {f"fates.{fate.replace(' ', '_')}", f"fates.why_{fate.replace(' ', '_')}"} <= EN.keys()


def test_marks_become_pieces():
    pieces = texts._pieces({"a": ["plain {0}", "**b** and `c`: $x̄ = 2$"]})["a"]
    assert pieces[0] == "plain {0}"
    assert [kind for kind, _ in pieces[1]["pieces"]] == ["strong", "text", "code", "text", "math"]

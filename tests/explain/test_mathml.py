"""Formulas as trees of MathML."""

import unicodedata

import pytest

from memograd.explain.mathml import real, text_of, typeset
from memograd.rules.registry import entries

TWO = {"msup", "msub", "mover", "mfrac"}
LEAVES = {"mi", "mn", "mo", "mtext"}


def check(tree):
    tag, inside = tree
    assert tag in LEAVES if isinstance(inside, str) else tag in TWO | {"mrow"}
    if tag in TWO:
        assert len(inside) == 2
    for child in inside if isinstance(inside, list) else ():
        check(child)


def test_every_formula_of_the_table_is_typeset_and_loses_no_letter():
    for entry in entries():
        tree = typeset(entry.formula)
        check(tree)
        assert letters(text_of(tree)) == letters(entry.formula), entry.formula


def letters(formula):
    """What is written, without brackets, bars and accents, powers on the line."""
    plain = unicodedata.normalize("NFKD", formula.replace("½", "12").replace("*", "·").replace("-", "−"))
    return "".join(c for c in plain if c not in "/()[]⟨⟩ ^_⁄" and not unicodedata.combining(c))


@pytest.mark.parametrize(
    "formula, tree",
    [
        ("ȳ", ["mover", [["mi", "y"], ["mo", "¯"]]]),
        ("xᵀ", ["msup", [["mi", "x"], ["mi", "T"]]]),
        ("a / b", ["mfrac", [["mi", "a"], ["mi", "b"]]]),
        ("½", ["mfrac", [["mn", "1"], ["mn", "2"]]]),
        ("L⁻¹", ["msup", [["mi", "L"], ["mrow", [["mo", "−"], ["mn", "1"]]]]]),
    ],
)
def test_what_a_formula_becomes(formula, tree):
    assert typeset(formula) == ["mrow", [tree]]


def test_a_division_that_could_be_read_in_two_ways_stays_on_its_line():
    assert "mfrac" not in str(typeset("x / 2 y"))


def test_for_real_numbers_there_are_no_conjugates():
    assert real("x̄ = ȳ · conj z, Ā = Ȳ Bᴴ, w̄ = conj(p x)") == "x̄ = ȳ · z, Ā = Ȳ Bᵀ, w̄ = (p x)"

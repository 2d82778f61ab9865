"""The formulas of the derivative table as MathML: ``x̄ = ȳ · cos x`` becomes a tree that a page can typeset.

Formulas are written as lines of text. The tree is data (lists of a tag and its children, or its text), which the page
makes into elements one by one; it never reads markup.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

Tree = list[Any]  # [tag, text] or [tag, [children]]

_MACRON, _HAT = "\u0304", "\u0302"
_ACCENTS = {_MACRON: "¯", _HAT: "^", "\u0305": "¯"}
_UP = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿᵀᴴᵖ", "0123456789+−()nTHp", strict=True))
_DOWN = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ᵢⱼₚ", "0123456789+−()ijp", strict=True))
_FUNCTIONS = {"sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "exp", "log", "sign", "max", "min"}
_FUNCTIONS |= {"mean", "conj", "softmax", "diag", "tril", "triu", "Re", "Im", "det", "rank"}
_TOKEN = re.compile(
    rf"""(?P<number>\d+(?:\.\d+)?)
    | (?P<compound>\w+-[a-z]{{2,}})
    | (?P<word>(?:[α-ωΑ-Ω]|[^\W\d_α-ωΑ-Ω{"".join(_UP)}{"".join(_DOWN)}]+)[{"".join(_ACCENTS)}]?(?:_(?P<low>\w+))?)
    | (?P<up>[{"".join(_UP)}]+)
    | (?P<down>[{"".join(_DOWN)}]+)
    | (?P<power>\^)
    | (?P<space>\s+)
    | (?P<sign>.)""",
    re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]", "⟨": "⟩"}


def typeset(formula: str) -> Tree:
    """The tree of a formula."""
    return ["mrow", _Reader(unicodedata.normalize("NFD", formula.replace("½", "1/2"))).row()]


def real(formula: str) -> str:
    """A formula as it reads for real numbers: without complex conjugates."""
    return re.sub(r"conj ?(?=\(|\w)", "", formula).replace("ᴴ", "ᵀ")


def text_of(tree: Tree) -> str:
    """The text in a tree, in order."""
    return tree[1] if isinstance(tree[1], str) else "".join(map(text_of, tree[1]))


class _Reader:
    """Reads a formula from left to right; an atom is what a power or a division takes for one thing."""

    def __init__(self, text: str) -> None:
        self.tokens = [m for m in _TOKEN.finditer(text)]
        self.at = 0

    def row(self, until: str = "") -> list[Tree]:
        parts: list[Tree] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            kind, text = token.lastgroup, token.group()
            if text == until:
                break
            self.at += 1
            if kind == "space":
                continue
            if kind == "up" and parts:
                parts[-1] = ["msup", [parts[-1], _script(text, _UP)]]
            elif kind == "down" and parts:
                parts[-1] = ["msub", [parts[-1], _script(text, _DOWN)]]
            elif kind == "power" and parts and (exponent := self.atom()):
                parts[-1] = ["msup", [parts[-1], exponent]]
            elif text == "/" and parts and (below := self.denominator()):
                parts[-1] = ["mfrac", [_bare(parts[-1]), _bare(below)]]
            else:
                parts.append(self.of(token))
        return _joined(parts)

    def atom(self) -> Tree | None:
        """The next thing, a group in brackets with what is inside, or a sign and a thing."""
        while self.at < len(self.tokens) and self.tokens[self.at].lastgroup == "space":
            self.at += 1
        if self.at == len(self.tokens):
            return None
        token = self.tokens[self.at]
        self.at += 1
        if token.group() in "-√" and (rest := self.atom()):
            return ["mrow", [self.of(token), rest]]
        tree = self.of(token)
        while self.at < len(self.tokens) and self.tokens[self.at].lastgroup in ("up", "down"):
            script = self.tokens[self.at]
            self.at += 1
            up = script.lastgroup == "up"
            tree = ["msup" if up else "msub", [tree, _script(script.group(), _UP if up else _DOWN)]]
        return tree

    def denominator(self) -> Tree | None:
        """What stands below a fraction bar; None where it is not sure how far that goes (``x / 2 y``)."""
        start = self.at
        below = self.atom()
        ahead = [t for t in self.tokens[self.at : self.at + 2] if t.lastgroup != "space"]
        if (
            below is None
            or text_of(below) in ("", *"([{⟨‖|")
            or (ahead and (ahead[0].lastgroup in ("number", "word", "power") or ahead[0].group() in ("(", "[")))
        ):
            self.at = start
            return None
        return below

    def of(self, token: re.Match[str]) -> Tree:
        kind, text = token.lastgroup, token.group()
        if kind == "number":
            return ["mn", text]
        if kind == "compound":  # k-th
            return ["mtext", text]
        if token.group("word"):
            low = token.group("low")
            letter = _letter(text.removesuffix(f"_{low}") if low else text)
            return ["msub", [letter, ["mi", low]]] if low else letter
        closing = _CLOSING.get(text)
        if closing and any(t.group() == closing for t in self.tokens[self.at :]):
            inner = self.row(closing)
            self.at += 1
            return ["mrow", [["mo", text], *inner, ["mo", closing]]]
        if text == "½":
            return ["mfrac", [["mn", "1"], ["mn", "2"]]]
        if kind in ("up", "down"):
            return ["mi", "".join((_UP | _DOWN)[c] for c in text)]
        return ["mo", {"-": "−", "*": "·"}.get(text, text)]


def _letter(text: str) -> Tree:
    accent = _ACCENTS.get(text[-1])
    name = text[:-1] if accent else text
    if len(name) == 1 or name in _FUNCTIONS:
        letter: Tree = ["mi", name]
    else:
        letter = ["mtext", name]
    return ["mover", [letter, ["mo", accent]]] if accent else letter


def _script(text: str, table: dict[str, str]) -> Tree:
    plain = "".join(table[c] for c in text)
    parts: list[Tree] = [
        ["mn" if p.isdigit() else "mi" if p.isalpha() else "mo", p] for p in re.findall(r"\d+|\w|.", plain)
    ]
    return parts[0] if len(parts) == 1 else ["mrow", parts]


def _bare(tree: Tree) -> Tree:
    """A group without its brackets, which a fraction bar makes needless."""
    if tree[0] == "mrow" and len(tree[1]) > 2 and (tree[1][0][1], tree[1][-1][1]) == ("(", ")"):
        return ["mrow", tree[1][1:-1]]
    return tree


def _joined(parts: list[Tree]) -> list[Tree]:
    """Words that follow each other are one text, with spaces around it."""
    joined: list[Tree] = []
    for part in parts:
        if part[0] == "mtext" and joined and joined[-1][0] == "mtext":
            joined[-1] = ["mtext", f"{joined[-1][1].rstrip()} {part[1]} "]
        elif part[0] == "mtext":
            joined.append(["mtext", f" {part[1]} " if joined else f"{part[1]} "])
        else:
            joined.append(part)
    return joined

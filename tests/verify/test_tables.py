"""The derivative table as text, and the page of it."""

import re
from pathlib import Path

import pytest
import torch

import memograd.rules  # noqa: F401
from memograd.rules.registry import entries, rule
from memograd.verify import tables
from memograd.verify.measured import Measured, load

PAGE = Path(__file__).parent.parent.parent / "docs" / "table.md"


def skip_where_operators_are_missing():
    """The page is written with the newest PyTorch: an older one lacks operators that are on it."""
    names = re.findall(r"^\| `(aten\.[^`]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 500
    if missing := [name for name in names if not operator_exists(name)]:
        pytest.skip(f"this PyTorch lacks operators that are on the page: {', '.join(missing)}")


def operator_exists(name):
    _, packet, overload = name.split(".")
    return hasattr(torch.ops.aten, packet) and hasattr(getattr(torch.ops.aten, packet), overload)


def test_the_page_is_up_to_date():
    skip_where_operators_are_missing()
    now = tables.markdown(load())
    assert PAGE.read_text(encoding="utf-8") == now, "memograd rules --markdown > docs/table.md"


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x / 2


def test_rules_of_the_program_itself_are_not_on_the_page():
    torch.library.define("memograd_page::twice", "(Tensor x) -> Tensor")
    rule(torch.ops.memograd_page.twice.default, formula="x̄ = 2 ȳ")(lambda adjoint, y, x: 2 * adjoint)
    assert "twice" in tables.text(tables.select("memograd_page*"), load())
    rule(Halved)(lambda adjoint, y, x: adjoint / 2)  # a rule may be of a Function, which has no namespace
    assert "Halved" in tables.text(tables.select("*Halved*"), load())
    skip_where_operators_are_missing()
    assert PAGE.read_text(encoding="utf-8") == tables.markdown(load())


def test_the_page_has_every_entry():
    page = PAGE.read_text(encoding="utf-8")
    own = [e for e in entries() if getattr(e.target, "namespace", "") in ("aten", "memograd")]
    for entry in own:
        name = entry.target if entry.kind in ("rule", "expansion", "refused") else entry.target.overloadpacket
        assert f"`{name}`" in page, name


def test_every_entry_says_what_it_states_and_where():
    root = Path(tables.__file__).parent.parent / "rules"
    for entry in entries():
        if getattr(entry.target, "namespace", "") not in ("aten", "memograd"):
            continue
        assert entry.formula, entry.target
        name, line = entry.file.split(":")
        assert 1 <= int(line) <= len((root / name).read_text(encoding="utf-8").splitlines()), entry.file


def test_selection():
    assert {str(e.target) for e in tables.select("aten.sin.default")} == {"aten.sin.default"}
    assert all("softmax" in str(e.target) for e in tables.select("softmax"))
    assert [str(e.target) for e in tables.select("aten.si[gn]*.default", ("zero",))] == ["aten.sign.default"]


def test_nothing_is_called_measured_that_was_not():
    (sine,) = tables.select("aten.sin.default")
    assert tables.as_dict(sine, Measured())["samples"] == {"first": 0, "second": 0, "complex": 0}
    assert "nothing was measured" in tables.text([sine], Measured())

"""The registry: users may enter a second rule for an operator, our own files never do."""

from __future__ import annotations

from importlib.util import find_spec
from pkgutil import walk_packages
from types import SimpleNamespace

import pytest
import torch

from memograd import rules
from memograd.rules import registry

sine = torch.ops.aten.sin.default


class Once(dict):
    """A table that notes what is entered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice: list[str] = []

    def __setitem__(self, target: object, entry: registry.Entry) -> None:
        if target in self:
            self.twice.append(f"{target}: {self[target].file} and {entry.file}")
        super().__setitem__(target, entry)


def enter_all() -> None:
    """Run every file of rules once more."""
    for module in walk_packages(rules.__path__, "memograd.rules."):
        spec = find_spec(module.name)
        if module.name.rpartition(".")[2].startswith("_") or module.name == registry.__name__ or spec is None:
            continue
        exec(spec.loader.get_code(module.name), {"__name__": module.name})  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def test_no_operator_is_entered_by_two_of_our_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before, table = set(registry._TABLE), Once()
    monkeypatch.setattr(registry, "_TABLE", table)
    enter_all()
    assert not table.twice, "\n".join(table.twice)
    assert {t for t in before if getattr(t, "namespace", "") == "aten"} <= set(table)


def test_what_older_releases_lack_has_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", table := {})
    monkeypatch.setattr(torch.ops, "torch_nn", SimpleNamespace(), raising=False)  # as in PyTorch 2.11
    enter_all()
    assert sine in table and not [t for t in table if getattr(t, "namespace", "") == "torch_nn"]


def test_a_second_entry_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Once()
    monkeypatch.setattr(registry, "_TABLE", table)
    for _ in range(2):
        registry.rule(sine)(lambda adjoint, y, x: adjoint)
    assert len(table.twice) == 1 and "aten.sin.default" in table.twice[0]


def test_a_users_rule_replaces_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    own = registry.rule(sine)(lambda adjoint, y, x: adjoint)
    entry = registry.lookup(sine)
    assert entry is not None and entry.function is own

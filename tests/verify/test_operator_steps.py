"""PyTorch's own database of operators through training steps; the whole of it is slow, a seeded sample runs always."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from operator_steps import OPTIMIZERS, sweep

from memograd.rules import registry
from memograd.verify.sweep import entries

pytest.importorskip("expecttest")


def dense() -> list[Any]:
    return [e for e in entries() if "sparse" not in e.name]


def failures(optimizer: str, ops: list[Any], limit: int) -> tuple[int, list[str]]:
    tallies = list(sweep(ops, optimizer, limit))
    return sum(t.passed for t in tallies), [str(t) for t in tallies if t.wrong or t.refused]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sample_of_operators(optimizer: str) -> None:
    passed, failed = failures(optimizer, random.Random(optimizer).sample(dense(), 8), limit=1)
    assert not failed, "\n".join(failed)
    assert passed > 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_operators(optimizer: str) -> None:
    passed, failed = failures(optimizer, dense(), limit=4)
    assert not failed, "\n".join(failed)
    assert passed > 1200


def test_a_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sine = torch.ops.aten.sin.default
    wrong = registry.Entry(sine, "rule", lambda adjoint, y, x: adjoint * x.sin(), "", "", "")
    monkeypatch.setitem(registry._TABLE, sine, wrong)
    (tally,) = sweep([e for e in entries() if e.name == "sin"], "SGD", limit=1)
    assert not tally.passed and (tally.wrong or tally.refused)

"""PyTorch's own database of modules against our derivatives; the whole of it is slow, a seeded sample runs always."""

import copy
import random

import pytest
import torch
from torch import nn

from memograd.verify.sweep_modules import Case, entries, gradients, sweep

COUNT = 113 + hasattr(nn, "LinearCrossEntropyLoss")  # which is newer than the rest
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def failures(training, order, limit, modules=None):
    pytest.importorskip("expecttest")
    drawn = entries(order=order)
    if modules is not None:
        drawn = random.Random(training).sample(drawn, modules)
    tallies = list(sweep(drawn, training, order=order, limit=limit))
    passed = [t for t in tallies if t.verdict == "pass"]
    return len(passed), [str(t) for t in tallies if t.wrong or t.refused]


@MODES
def test_sample_of_the_modules(training):
    passed, failed = failures(training, order=1, limit=1, modules=30)
    assert not failed, "\n".join(failed)
    assert passed == 30


@pytest.mark.slow
@MODES
def test_all_modules(training):
    passed, failed = failures(training, order=1, limit=None)
    assert not failed, "\n".join(failed)
    assert passed == COUNT


@pytest.mark.slow
@MODES
def test_second_order(training):
    passed, failed = failures(training, order=2, limit=3)
    assert not failed, "\n".join(failed)
    assert passed >= 90, "the others are linear, or PyTorch has no second derivative"


def test_a_wrong_gradient_is_noticed(monkeypatch):
    pytest.importorskip("expecttest")
    monkeypatch.setattr("memograd.verify.sweep_modules.gradients", lambda *args: [2 * g for g in gradients(*args)])
    (tally,) = sweep([e for e in entries() if e.name == "nn.Linear"], True, limit=1)
    assert tally.wrong == 1 and "gradient 0 differs" in str(tally)


def test_a_buffer_written_twice_is_noticed(monkeypatch):
    pytest.importorskip("expecttest")

    def twice(case: Case, module: nn.Module, cotangents):
        found = gradients(case, copy.deepcopy(module), cotangents)
        args, kwargs = case.arguments
        with torch.no_grad():
            module(*args, **kwargs), module(*args, **kwargs)
        return found

    monkeypatch.setattr("memograd.verify.sweep_modules.gradients", twice)
    (tally,) = sweep([e for e in entries() if e.name == "nn.BatchNorm1d"], True)
    assert tally.wrong and "buffers differ" in str(tally)

"""PyTorch's own test database against our derivatives; the whole of it is slow, a seeded sample runs always."""

from collections import Counter

import pytest
import torch

from memograd.sweep import entries, sweep


def verdicts(limit):
    pytest.importorskip("expecttest")
    tallies = list(sweep(entries(torch.float64), torch.float64, limit=limit))
    wrong = [str(t) for t in tallies if t.verdict == "wrong"]
    assert not wrong, "\n".join(wrong)
    return Counter(t.verdict for t in tallies)


def test_sample_of_the_database():
    assert verdicts(limit=3)["pass"] >= 480


@pytest.mark.slow
def test_whole_database():
    assert verdicts(limit=None)["pass"] >= 480

"""A few small models of transformers for two steps each; ``make models`` does all of them, in every way."""

import random

import pytest
from sweeps.architectures import catalog
from sweeps.models import WAYS, Verdict, page, verdict

SAMPLE = random.Random(12).sample(sorted(catalog()), 4)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Bert", "T5", "ViT"])
def test_a_step_with_dropout(name):
    pytest.importorskip("transformers", reason="transformers is not installed: no models to train")
    assert str(verdict(name, dropout=True)) == "pass"


@pytest.mark.parametrize(("name", "way"), [(name, WAYS[k % len(WAYS)]) for k, name in enumerate(SAMPLE)])
def test_a_sample_of_architectures(name, way):
    pytest.importorskip("transformers", reason="transformers is not installed: no models to train")
    attention, dropout = way
    assert str(verdict(name, dropout, attention)) == "pass"


def test_the_page_gives_the_reason_for_what_does_not_pass():
    pytest.importorskip("transformers", reason="transformers is not installed: the page names its version")
    passes, refused = Verdict("pass", "", 1234, 0.5), Verdict("refused", "CaptureError: no")
    text = page({"A": [passes] * 4, "B": [passes, refused, passes, refused]})
    assert "1 of 2 architectures" in text
    assert "| A | pass | pass | pass | pass | 1,234 | 0.50 |" in text
    assert "- B: refused (CaptureError: no)" in text

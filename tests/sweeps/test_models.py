"""A few small models of transformers for two steps each; ``make models`` does all of them, in every way."""

import random
import time

import pytest
import torch
from sweeps.architectures import catalog
from sweeps.models import WAYS, Timed, Verdict, page, verdict

import memograd as mg

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


@pytest.mark.slow
def test_gpt2_small_is_captured_and_differentiated_in_ten_seconds():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: no models to capture")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=12, n_head=12, n_embd=768))
    ids = torch.zeros(2, 128, dtype=torch.long)
    start = time.process_time()  # of the processor: the machine may be busy
    graph = mg.differentiate(mg.capture(lambda ids: model(input_ids=ids, labels=ids).loss, ids))
    assert time.process_time() - start < 10
    assert len(graph.nodes) > 1500


def test_what_a_step_takes_to_be_captured_is_measured():
    model = torch.nn.Linear(2, 1)
    step = Timed(model, torch.nn.MSELoss(), torch.optim.SGD(model.parameters()))
    step(torch.rand(3, 2), torch.rand(3, 1))
    first = step.seconds
    step(torch.rand(3, 2), torch.rand(3, 1))
    assert step.seconds == first > 0


def test_the_page_gives_the_reason_for_what_does_not_pass():
    pytest.importorskip("transformers", reason="transformers is not installed: the page names its version")
    passes, refused = Verdict("pass", "", 1234, 0.5), Verdict("refused", "CaptureError: no")
    text = page({"A": [passes] * 4, "B": [passes, refused, passes, refused]})
    assert "1 of 2 architectures" in text
    assert "| A | pass | pass | pass | pass | 1,234 | 0.50 |" in text
    assert "- B: refused (CaptureError: no)" in text

"""A few types that nobody named, made by rule; ``python tests/sweeps/automatic.py`` does any number of them."""

import pytest
import torch
from sweeps.automatic import TITLE, Narrow, agree, kind, model_types, outcome, sample, section
from sweeps.by_rule.sizes import HEADS, VOCABULARY, WIDTH, small
from sweeps.foreign import WAYS, Course, placed
from sweeps.models import PAGE

transformers = pytest.importorskip("transformers", reason="transformers is not installed: no models to make")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model_type", ["gpt_neo", "vilt"])
def test_a_type_made_by_rule_trains_as_in_pytorch(model_type):
    row = outcome(model_type)
    assert {way: row.get(way) for way in WAYS} == dict.fromkeys(WAYS, "pass"), row


@pytest.mark.slow
@pytest.mark.parametrize("model_type", model_types())
def test_every_type_that_pytorch_trains_passes_or_is_refused(model_type):
    assert kind(outcome(model_type)) in ("untrained", "refused", "pass")


def test_sizes_go_by_the_names_of_fields_also_in_parts():
    config = small(transformers.LlavaConfig, "small")
    for part in (config.text_config, config.vision_config):
        assert (part.hidden_size, part.num_attention_heads) == (WIDTH, HEADS)
    assert config.text_config.vocab_size == VOCABULARY
    assert config.image_token_id < VOCABULARY


def test_what_only_repeats_is_fewer_in_a_shallow_one():
    config = small(transformers.BertConfig, "shallow")
    assert (config.num_hidden_layers, config.hidden_size) == (2, transformers.BertConfig().hidden_size)


def test_the_sample_is_always_the_same():
    assert sample(5) == sample(7)[:5]
    assert len(set(sample(300))) == 300


def test_a_type_that_pytorch_does_not_train_does_not_count():
    row = outcome("no such type")
    assert kind(row) == "untrained"


def test_a_type_that_takes_too_long_does_not_stop_the_others():
    assert outcome("llama", seconds=0)["untrained"] == "plain PyTorch: slow"


def test_a_small_gradient_has_to_agree_in_its_own_digits():
    def course(small: float) -> Course:
        gradients = {"large": torch.ones(2), "small": torch.full((2,), small)}
        return Course([torch.ones(())], [gradients], {"large": torch.ones(2)})

    start = {"large": torch.zeros(2)}
    agree(course(1e-3), course(1e-3), start, 1e-6)
    with pytest.raises(AssertionError, match="gradient 0 of small"):
        agree(course(1.1e-3), course(1e-3), start, 1e-6)


def test_what_is_computed_in_float32_is_noticed():
    x = torch.ones(2, dtype=torch.float64)
    with Narrow() as mode:
        x.exp()
        assert not mode.anything
        x.float().exp().double()
    assert mode.anything


def test_a_buffer_that_did_not_change_is_a_difference():
    theirs = Course([], [], {"count": torch.tensor(3)})
    with pytest.raises(AssertionError, match="change of count"):
        agree(Course([], [], {"count": torch.tensor(2)}), theirs, {"count": torch.tensor(2)}, 1e-8)


def test_the_worst_way_is_the_kind():
    assert kind({"untrained": "no"}) == "untrained"
    assert kind({"step": "pass", "wrap": "pass"}) == "pass"
    assert kind({"step": "pass", "wrap": "refused: CaptureError: no"}) == "refused"
    assert kind({"step": "wrong: loss", "wrap": "refused: CaptureError: no"}) == "wrong"


def test_the_section_counts_what_pytorch_trains():
    rows = [
        {"type": "a", "step": "pass", "wrap": "pass"},
        {"type": "b", "step": "refused: CaptureError: no", "wrap": "pass"},
        {"type": "c", "untrained": "too large"},
    ]
    text = section(rows)
    assert "PyTorch trains 2 of 3 types" in text and "1 pass\n(50.0 %)" in text and "Pass: a." in text
    assert "| b | step | refused: CaptureError: no |" in text
    page = placed(PAGE.read_text(encoding="utf-8"), TITLE, text)
    assert page.count(TITLE) == 1 and page.startswith("# Models of transformers")

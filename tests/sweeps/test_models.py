"""A few small models of transformers for a step each; ``make witness`` does all of them."""

import pytest
from sweeps.models import verdict

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Bert", "T5", "ViT"])
def test_a_step_with_dropout(name):
    assert verdict(name, dropout=True) == "pass"

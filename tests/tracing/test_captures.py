"""Why a program was captured is said by what is unlike the call before, and once when there are many."""

import warnings

import torch
from torch import nn

import memograd as mg


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 2), 1

    def forward(self, x, scale=1.0, batch=None):
        return self.layer(x if batch is None else batch["x"]) * self.factor * scale


def test_each_reason_names_what_is_unlike_the_call_before() -> None:
    model = mg.wrap(Scaled())
    x = torch.randn(3, 4)
    model(x)
    model(x[:2].clone())
    model(x[:2].clone(), scale=2.0)
    model(x[:2].clone(), scale=3.0)
    model(x[:2].double().float().requires_grad_(), scale=3.0)
    model(x, batch={"x": x})
    model.factor = 5
    model(x, batch={"x": x})
    with torch.autocast("cpu"):
        model(x, batch={"x": x})
    reasons = model.forward.captures  # pyright: ignore
    assert reasons == [
        "the first call",
        "x is float32 (2, 4), and was float32 (3, 4)",
        "scale is new",
        "scale is 3.0, and was 2.0",
        "x is float32 (2, 4) that requires a gradient, and was float32 (2, 4)",
        "x is float32 (3, 4), and was float32 (2, 4) that requires a gradient; batch.x is new; scale is missing",
        "'self.factor' is not what it was",
        "a setting unlike those before (dtype, autocast, hooks)",
    ]


def test_many_are_said_once_with_the_last_reason() -> None:
    model = nn.Linear(4, 1)
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), check="never", backend="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for rows in range(1, 36):
            step(torch.randn(rows, 4), torch.randn(rows, 1))
    (warning,) = [w for w in said if "captured" in str(w.message)]
    assert "captured 32 times" in str(warning.message) and "(32, 4), and was float32 (31, 4)" in str(warning.message)
    assert warning.filename == __file__ and len(step.captures) == 35


class Sample:
    def __init__(self, x) -> None:
        self.x = x


def test_another_object_that_is_no_pytree_is_named() -> None:
    class OfObjects(Scaled):
        def forward(self, sample):
            return self.layer(sample.x)

    model, x = mg.wrap(OfObjects()), torch.randn(3, 4)
    kept = Sample(x)
    model(kept)
    model(kept)
    model(Sample(x))
    reasons = model.forward.captures  # pyright: ignore
    assert reasons == [
        "the first call",
        "sample is another object than before, a Sample; pass what it holds, or make its class a pytree",
    ]


class Reads(nn.Module):
    """Goes by what it holds, and appends to a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen, self.scales, self.words = [], {"a": 2.0, "b": 3.0}, set()

    def forward(self, x):
        factor = next(iter(self.scales.values())) * getattr(self, "factor", 1.0) * (1 + len(self.words))
        return self.layer(x) * factor


def test_what_is_no_value_is_named_too() -> None:
    model, x = mg.wrap(Reads()), torch.randn(3, 4)
    model(x)
    model.scales["a"] = model.scales.pop("a")
    model(x)
    model.factor = 2.0
    model(x)
    model.words.add("c")
    model(x)
    assert model.forward.captures[1:] == [  # pyright: ignore
        "which keys 'self.scales' has, or their order, is not what it was",
        "'self.factor', which was not there, is not what it was",
        "'self.words', which the program reads (it holds 1 and held 0), is not what it was",
    ]


def test_a_list_that_a_hook_fills_is_named() -> None:
    model, seen = Reads(), []
    model.layer.register_forward_hook(lambda *_: seen.append(1))
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1))
    for _ in range(3):
        step(torch.ones(3, 4), torch.ones(3, 2))
    assert len(seen) == 3 and step.captures[1:] == [
        f"'seen', to which the program adds itself (it holds {k + 1} and held {k}), is not what it was" for k in (0, 1)
    ]

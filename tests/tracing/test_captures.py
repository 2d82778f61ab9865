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
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), check="never")
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

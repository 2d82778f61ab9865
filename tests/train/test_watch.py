"""The trip-wire: a step that is not finite changes nothing, whatever runs it, and says which operator did it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from not_finite import Event, Root, as_on_an_accelerator
from torch import nn

import memograd as mg


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    good = [(torch.randn(6, 3), torch.randn(6)) for _ in range(2)]
    return [*good, (torch.zeros(6, 3), torch.randn(6))]


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    held = [t for s in optimizer.state.values() for t in s.values()]
    return [t.detach().clone() for t in (*model.state_dict().values(), *held, torch.get_rng_state())]


def trained(steps: int, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, mg.TrainStep, list[Any]]:
    torch.manual_seed(0)
    model, data = Root(), batches()
    optimizer = options.pop("optimizer", torch.optim.AdamW)(model.parameters(), lr=0.01)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, **options)
    for batch in data[:steps]:
        step(*batch)
    return model, optimizer, step, data


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "eager", "check": "never"},
        {"backend": "eager", "check": "always"},
        {"memory_budget": "100%", "check": "never"},
        {"accumulate": 2, "check": "never"},
        {"optimizer": torch.optim.RMSprop, "check": "never"},
        {"clip_grad_norm": 1.0, "ema_decay": 0.9, "check": "never"},
        {"autocast": torch.bfloat16, "check": "never"},
    ],
    ids=lambda o: ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in o.items()),
)
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(options: dict[str, Any]) -> None:
    model, optimizer, step, data = trained(2, watch=True, **options)
    before = state(model, optimizer)
    with pytest.raises(mg.NonFiniteError) as caught:
        step(*data[2])
    assert all(map(torch.equal, before, state(model, optimizer)))
    (finding,) = caught.value.report.findings
    assert "sqrt" in finding.kind and finding.where.phase == "backward"
    assert "distance = " in finding.where.line
    assert finding.names == ("scale",)
    assert isinstance(caught.value, FloatingPointError)
    step(*data[0])  # and it goes on


def test_without_watch_the_same_step_spoils_the_weights() -> None:
    model, _, step, data = trained(2, backend="eager", check="never")
    step(*data[2])
    assert model.get_parameter("scale").isnan()


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_watched_steps_are_the_same_steps_to_the_last_bit(backend: str) -> None:
    runs = []
    for watch in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        step = mg.TrainStep(
            model, nn.MSELoss(), torch.optim.Adam(model.parameters()), backend=backend, check="never", watch=watch
        )
        x, y = torch.randn(5, 2), torch.randn(5, 1)
        losses = [step(x, y), *step.run(x, y, steps=3)]
        runs.append([torch.stack(losses), *(p.detach() for p in model.parameters())])
    assert all(map(torch.equal, *runs))


class Diverging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.w).pow(4).sum()


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_many_steps_at_once_end_before_the_first_that_is_not_finite(backend: str) -> None:
    x = torch.ones(2)
    plain = Diverging()
    optimizer, finite = torch.optim.SGD(plain.parameters(), lr=10.0), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = plain(x)
        loss.backward()
        if not (loss.isfinite() and plain.w.grad is not None and plain.w.grad.isfinite().all()):
            break
        finite.append(loss.item())
        optimizer.step()
    model = Diverging()
    step = mg.TrainStep(
        model, None, torch.optim.SGD(model.parameters(), lr=10.0), backend=backend, check="never", watch=True
    )
    with pytest.raises(mg.NonFiniteError) as caught:
        step.run(x, steps=50)
    torch.testing.assert_close(model.w, plain.w)
    assert caught.value.report.findings[0].numbers["step"] == len(finite)
    assert caught.value.report.findings[0].kind == "exploding training"


def test_the_first_step_leaves_an_optimizer_without_state() -> None:
    _, optimizer, step, data = trained(0, watch=True)
    with pytest.raises(mg.NonFiniteError):
        step(*data[2])
    assert not optimizer.state


def test_train_model_takes_watch_too() -> None:
    torch.manual_seed(0)
    model, data = Root(), batches()
    with pytest.raises(mg.NonFiniteError, match="step 2: 1 of 5 gradients are not finite"):
        mg.train_model(
            model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.01), data, 1, check="never", watch=True
        )


def test_a_model_that_decides_by_values_is_watched_too() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.w * x).log().sum() if x.sum() > 0 else (self.w * x).sum()

    model = Deciding()
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.01), watch=True)
    step(torch.ones(3))
    step(-torch.ones(3))
    before = model.w.detach().clone()
    with pytest.raises(mg.NonFiniteError, match="log at the edge"):
        step(torch.tensor([1.0, 0.0, 2.0]))
    assert torch.equal(before, model.w)


@pytest.mark.parametrize(
    "options", [{"backend": "eager"}, {"memory_budget": "95%"}, {"memory_budget": "100%"}], ids=str
)
def test_on_an_accelerator_nobody_waits_for_the_flag_and_the_bad_step_has_written_nothing(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = state(*trained(2, check="never", **options)[:2])  # on the CPU, without the bad one
    as_on_an_accelerator(monkeypatch)
    model, optimizer, step, data = trained(2, check="never", watch=True, **options)
    assert not Event.waits
    step(*data[2])
    assert Event.waits == 1  # for the first step, when the third began: one was under way
    with pytest.raises(mg.NonFiniteError) as caught:
        step(*data[0])
        step(*data[0])
    (finding,) = caught.value.report.findings
    assert finding.numbers["step"] == 2 and "distance = " in finding.where.line
    assert all(torch.equal(a, b) for a, b in zip(state(model, optimizer), expected, strict=True))
    step(*data[1])
    step.settle()

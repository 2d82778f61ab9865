"""mg.wrap(model, watch=True): in a loop that is not ours, gradients that are not finite are never written."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from not_finite import Event, Root, as_on_an_accelerator
from torch import nn

import memograd as mg
from memograd.frontend import loss_source


def trained(model: nn.Module, batches: list[Any], autocast: bool = False, accumulate: int = 1) -> list[float]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.01), []
    for k, (x, y) in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.mse_loss(model(x).float(), y) / accumulate
        loss.backward()
        losses.append(loss.item())
        if (k + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def batches(bad: bool = True) -> list[Any]:
    torch.manual_seed(0)
    good = [(torch.randn(6, 3), torch.randn(6)) for _ in range(4)]  # more than a program needs to be quick
    return [*good, *([(torch.zeros(6, 3), torch.randn(6))] if bad else [])]


@pytest.mark.parametrize(
    ("options", "loop"),
    [({}, {}), ({"check": "never"}, {"autocast": True}), ({"memory_budget": "100%"}, {}), ({}, {"accumulate": 2})],
    ids=str,
)
def test_gradients_that_are_not_finite_are_not_written(options: dict[str, Any], loop: dict[str, Any]) -> None:
    model = mg.wrap(Root(), watch=True, **options)
    with pytest.raises(mg.NonFiniteError) as caught:
        trained(model, batches(), **loop)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    (finding,) = caught.value.report.findings
    assert "sqrt" in finding.kind and "distance = " in finding.where.line
    assert finding.names == ("scale",)
    assert finding.numbers["step"] == 4
    assert "(no .grad of this model was written" in str(caught.value)


def test_watched_passes_are_the_same_to_the_last_bit() -> None:
    model = Root()
    other = mg.wrap(copy.deepcopy(model), watch=True)
    mg.wrap(model)
    data, losses = batches(bad=False), []
    for one in (model, other):
        torch.manual_seed(1)
        losses.append(trained(one, data))
    assert losses[0] == losses[1]
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_a_fault_of_the_loss_is_found_in_the_source_of_the_loop() -> None:
    torch.manual_seed(0)
    model = mg.wrap(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), watch=True)
    x, y = 1000 * torch.randn(5, 3), torch.rand(5, 4).round()
    p = model(x)
    error = y * torch.log(p) + (1 - y) * torch.log(1 - p)
    loss = -error.mean()
    with pytest.raises(mg.NonFiniteError) as caught:
        loss.backward()
    (finding,) = caught.value.report.findings
    assert finding.kind == "log at the edge of its domain"
    assert finding.where.line.startswith("error = ") and "test_watch.py" in finding.where.source
    assert finding.fix == "error = y * torch.log(p.clamp_min(1e-08)) + (1 - y) * torch.log((1 - p).clamp_min(1e-08))"
    assert "is finite" in finding.tried
    assert finding.names == ("0.weight", "0.bias")


def test_what_a_gradient_scaler_skips_is_left_to_it() -> None:
    torch.manual_seed(0)
    model = mg.wrap(nn.Linear(3, 1), watch=True)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1e38)
    x = torch.ones(4, 3) * 50
    before = model.weight.detach().clone()
    scaler.scale(model(x).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before) and scaler.get_scale() < 1e38


def test_a_scaler_does_not_hide_a_fault_of_the_model() -> None:
    model = mg.wrap(Root(), watch=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with pytest.raises(mg.NonFiniteError, match="sqrt"):
        scaler.scale(model(torch.zeros(6, 3)).mean()).backward()


def test_a_result_of_the_model_that_is_not_finite_is_blamed_and_not_the_loss() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(self.w * x)

    model = mg.wrap(Log(), watch=True)
    with pytest.raises(mg.NonFiniteError) as caught:
        F.mse_loss(model(torch.ones(2)), torch.zeros(2)).backward()
    (finding,) = caught.value.report.findings
    assert (finding.kind, finding.where.phase) == ("log at the edge of its domain", "forward")
    assert "is finite" in finding.tried


def test_a_loss_that_is_not_finite_is_seen_though_all_gradients_are() -> None:
    torch.manual_seed(0)
    model = mg.wrap(nn.Linear(3, 2), watch=True)
    target = torch.zeros(4, 2)
    target[1, 1] = -torch.inf
    loss = F.l1_loss(model(torch.randn(4, 3)), target)
    with pytest.raises(mg.NonFiniteError) as caught:
        loss.backward()
    assert caught.value.report.findings[0].kind == "inf in the data"


def test_a_model_that_returns_its_loss_is_watched_by_that() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.inner(x), y, ignore_index=-1)

    model = mg.wrap(Model(), watch=True)
    with pytest.raises(mg.NonFiniteError) as caught:
        model(torch.randn(4, 3), torch.full((4,), -1)).backward()
    (finding,) = caught.value.report.findings
    assert finding.kind == "mean over no element" and "is finite" in finding.tried


def test_on_an_accelerator_it_is_asked_for_in_front_of_an_optimizers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mg.wrap(Root(), watch=True, check="never")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = batches()
    as_on_an_accelerator(monkeypatch)
    monkeypatch.setattr(loss_source, "_BACKWARD", None)  # autograd's own threads have no frames of the loop's
    for x, y in data[:-1]:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        waits = Event.waits
        optimizer.step()
        assert Event.waits == waits + 1  # and not in the backward pass
    held = copy.deepcopy([*model.parameters()])
    optimizer.zero_grad()
    x, y = data[-1]
    F.mse_loss(model(x), y).backward()
    with pytest.raises(mg.NonFiniteError, match="no optimizer has made a step with these gradients") as caught:
        optimizer.step()
    (finding,) = caught.value.report.findings
    assert "distance = " in finding.where.line and finding.names == ("scale",) and finding.numbers["step"] == 4
    assert all(torch.equal(p, h) for p, h in zip(model.parameters(), held, strict=True))
    optimizer.zero_grad()
    x, y = data[0]
    F.mse_loss(model(x), y).backward()
    optimizer.step()  # and it goes on
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_pass_that_finds_the_answer_there_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = mg.wrap(Root(), watch=True, check="never"), batches()
    as_on_an_accelerator(monkeypatch)
    monkeypatch.setattr(loss_source, "_BACKWARD", None)
    x, y = data[-1]
    F.mse_loss(model(x), y).backward()
    monkeypatch.setattr(Event, "query", lambda self: True)
    with pytest.raises(mg.NonFiniteError):
        F.mse_loss(model(data[0][0]), data[0][1]).backward()
    assert not Event.waits
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    optimizer.step()  # nothing is under way any more

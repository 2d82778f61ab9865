"""The doctor names the operator, the line and the sort of fault of every program of the zoo that is not finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo.healthy import HEALTHY
from zoo.healthy_nan import HEALTHY_NAN
from zoo.sick_nan import SICK_NAN, SickNan

import memograd as mg


def tripped(case: SickNan) -> mg.NonFiniteError:
    torch.manual_seed(0)
    model, criterion, batches = case.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=case.lr)
    step = mg.TrainStep(model, criterion, optimizer, backend="eager", check="never", watch=True)
    with pytest.raises(mg.NonFiniteError) as caught:
        for batch in batches:
            step(*batch)
    return caught.value


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # so does PyTorch
@pytest.mark.parametrize("name", SICK_NAN)
def test_the_report_names_the_cause(name: str) -> None:
    case = SICK_NAN[name]
    error = tripped(case)
    (finding,) = error.report.findings
    where, numbers = finding.where, finding.numbers
    assert finding.kind == case.kind, error
    assert case.op in (numbers["forward_op"] or numbers["op"]), error
    assert case.line in where.line, error
    assert where.phase == ("" if case.phase == "input" else case.phase), error
    assert finding.fix, error
    assert not case.fixed or numbers["finite_with_fix"], error


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [*HEALTHY_NAN, *HEALTHY])
def test_a_healthy_program_trains_on(name: str) -> None:
    torch.manual_seed(0)
    model, criterion, given = (HEALTHY_NAN.get(name) or HEALTHY[name])()
    batches = given if name in HEALTHY_NAN else [given]
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = mg.TrainStep(model, criterion, torch.optim.SGD(parameters, lr=1e-3), check="never", watch=True)
    for _ in range(2):
        for batch in batches:
            assert step(*batch).isfinite()


def test_the_text_is_what_a_desperate_person_can_follow() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(torch.relu(self.head(x))).sum()

    model = Net()
    nn.init.zeros_(model.head.weight)
    nn.init.constant_(model.head.bias, -1.0)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1), watch=True)
    with pytest.raises(mg.NonFiniteError) as caught:
        step(torch.ones(3, 4))
    lines = str(caught.value).splitlines()
    assert lines[0] == "step 0: the loss is infinite"
    assert lines[2] == "error  log at the edge of its domain: 6 of 6 elements are not finite"
    assert lines[4].strip() == "return torch.log(torch.relu(self.head(x))).sum()"
    assert "log(0) = -inf" in lines[6]
    assert lines[-2].split(maxsplit=1)[1] == "return torch.log(torch.relu(self.head(x)).clamp_min(1e-08)).sum()"
    assert "the step is finite" in lines[-1]


def test_weights_that_an_optimizer_in_float16_has_spoiled_say_so() -> None:
    """github.com/pytorch/pytorch/issues/8860: Adam's eps of 1e-8 is 0 in float16."""
    torch.manual_seed(0)
    model = mg.wrap(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).half(), watch=True)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(32, 4).half() * torch.tensor([0, 1, 1, 1]), torch.randn(32, 1).half()
    with pytest.raises(mg.NonFiniteError) as caught:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    (finding,) = caught.value.report.findings
    assert finding.kind == "NaN in the weights" and finding.numbers["step"] == 1
    assert "Adam divides 0 by 0" in str(finding) and "eps=1e-4" in finding.fix


def test_numbers_beyond_all_measure_in_the_first_step_are_not_blamed_on_the_learning_rate() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(30) for m in (nn.Linear(32, 32), nn.ReLU())]
    model = mg.wrap(nn.Sequential(*layers), watch=True)
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=4.0)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with pytest.raises(mg.NonFiniteError) as caught:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 32)).mean().backward()
            optimizer.step()
    (finding,) = caught.value.report.findings
    assert "in the first step already" in str(finding) and "kaiming_normal_" in finding.fix

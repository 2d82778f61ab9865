from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from memograd.explain.lesson.questions import asked, program
from memograd.explain.lesson.slopes import network

X = torch.tensor([[0.0, 1]], dtype=torch.float64)
Y = torch.tensor([[1.0]], dtype=torch.float64)


def gradients():
    model = network()
    loss = nn.functional.binary_cross_entropy(model(X), Y)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_the_adjoints_that_the_recursion_answers_are_those_of_autograd():
    data = asked()
    shown = {n["label"]: n["adjoint"]["numbers"] for n in data["nodes"] if n["kind"] == "parameter"}
    for name, gradient in gradients().items():
        assert shown[name] == pytest.approx(gradient.reshape(-1).tolist(), abs=1e-14)
    hits = sum(kind in (1, 4) for kind, _ in data["events"])
    assert hits == 3 and data["order"] == "asked"


def test_each_gradient_is_the_sum_of_its_products_and_that_of_autograd():
    data = program()
    theirs = torch.cat([g.reshape(-1) for g in gradients().values()]).tolist()
    assert len(data["witnesses"]) == len(theirs) == 9
    for witness, gradient in zip(data["witnesses"], theirs, strict=True):
        products = [math.prod(factor for _, _, factor in path) for path in witness["products"]]
        assert witness["ours"] == pytest.approx(gradient, abs=1e-14) == pytest.approx(sum(products), abs=1e-9)
        assert witness["autograd"] == pytest.approx(gradient, abs=1e-14)


def test_the_program_computes_the_loss_and_says_for_whom_each_line_is():
    lines = program()["lines"]
    loss = next(line for line in lines if line["name"] == "binary_cross_entropy")
    assert loss["value"]["numbers"][0] == nn.functional.binary_cross_entropy(network()(X), Y).item() and not loss["of"]
    assert {line["of"] for line in lines} >= {"sigmoid", "relu", "addmm"}
    assert "self.table[v] = total" in program()["recursion"]

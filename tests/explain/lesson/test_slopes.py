from __future__ import annotations

import pytest
import torch
from torch import nn

from memograd.explain.lesson.slopes import along_weights, chains, network

X = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
Y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)


def test_the_loss_along_a_weight_and_its_slope_are_those_of_autograd():
    data = along_weights()
    model = network()
    assert len(data["weights"]) == data["costs"]["parameters"] == 9
    assert data["costs"]["cnn"] == 1 * 32 * 9 + 32 + 32 * 14 * 14 * 10 + 10
    for k, at in ((0, 0), (1, 37), (3, 60), (4, 90), (6, 120), (8, 11)):
        weight = data["weights"][k]
        parameter = dict(model.named_parameters())[weight["name"]]
        place = tuple(weight["index"])
        start = parameter[place].item()
        with torch.no_grad():
            parameter[place] = start + data["reach"] * (at - 60) / 60
        loss = nn.functional.binary_cross_entropy(model(X), Y)
        (gradient,) = torch.autograd.grad(loss, [parameter])
        with torch.no_grad():
            parameter[place] = start
        assert weight["start"] == start
        assert weight["loss"][at] == pytest.approx(loss.item(), rel=1e-8)
        assert weight["slope"][at] == pytest.approx(gradient[place].item(), rel=1e-8, abs=1e-12)


INNER = {
    "square": lambda x: x * x,
    "sin": lambda x: x.sin(),
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: (0.5 * x).exp(),
    "relu": lambda x: x.clamp(min=0),
}
OUTER = {name: INNER[name] for name in ("sin", "square", "relu")} | {"sigmoid": lambda y: 1 / (1 + (-y).exp())}


def test_the_three_slopes_are_those_of_autograd_and_multiply():
    data = chains()
    x = torch.linspace(-data["reach"], data["reach"], data["points"], dtype=torch.float64)
    x = x[x != 0].requires_grad_()  # at 0 ReLU has a kink
    inside = [i for i in range(data["points"]) if i != data["points"] // 2]
    for g, f in ((g, f) for g in INNER for f in OUTER):
        y = INNER[g](x)
        z = OUTER[f](y)
        (dzdy,) = torch.autograd.grad(z.sum(), [y], retain_graph=True)
        (dzdx,) = torch.autograd.grad(z.sum(), [x], retain_graph=True)
        (dydx,) = torch.autograd.grad(y.sum(), [x])
        inner, pair = data["inner"][g], data["pairs"][f"{g}-{f}"]
        flat = f == "relu"  # where the inner function is 0, ReLU of it has a kink
        for shown, theirs in ((inner["slope"], dydx), (pair["outer"], dzdy), (pair["whole"], dzdx), (pair["z"], z)):
            ours = torch.tensor([shown[i] for i in inside], dtype=torch.float64)
            away = (y != 0) if flat else torch.ones_like(y, dtype=torch.bool)
            torch.testing.assert_close(ours[away], theirs.detach()[away], rtol=1e-8, atol=1e-9)
        product = torch.tensor(inner["slope"]) * torch.tensor(pair["outer"])
        torch.testing.assert_close(product, torch.tensor(pair["whole"]), rtol=1e-5, atol=1e-7)

from __future__ import annotations

import base64

import pytest
import torch
from torch import nn

from memograd.explain.lesson import training
from memograd.explain.lesson.seeds import FATES, Networks, fates
from memograd.recipes.models import SimpleNN

X = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
Y = torch.tensor([[0.0], [1], [1], [0]])


def trained(seed, epochs, rate=0.1):
    """The lecture's loop in plain PyTorch: (weights, gradients, loss) before each epoch, and the model."""
    torch.manual_seed(seed)
    model, frames = SimpleNN(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(epochs + 1):
        loss = nn.functional.binary_cross_entropy(model(X), Y)
        optimizer.zero_grad()
        loss.backward()
        weights = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        gradients = nn.utils.parameters_to_vector([p.grad for p in model.parameters()]).clone()
        frames.append((weights, gradients, loss.item()))
        optimizer.step()
    return frames, model


def test_every_recorded_number_is_that_of_plain_pytorch():
    data = training.recorded(epochs=60)
    frames, _ = trained(training.SEED, 60)
    assert data["frames"][0]["epoch"] == 0 and data["frames"][-1]["epoch"] == 60
    for frame in data["frames"]:
        weights, gradients, loss = frames[frame["epoch"]]
        torch.testing.assert_close(torch.tensor(frame["weights"]), weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.tensor(frame["gradients"]), gradients, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.tensor(frame["after"]), weights - 0.1 * gradients, rtol=1e-5, atol=1e-6)
        assert frame["loss"] == pytest.approx(loss, rel=1e-5) == pytest.approx(sum(frame["each"]) / 4, rel=1e-5)
    assert data["half"] == pytest.approx(0.6931471805599453, rel=1e-6)


def test_the_plane_is_what_the_network_answers():
    frame = training.recorded(epochs=2)["frames"][0]
    torch.manual_seed(training.SEED)
    levels = torch.frombuffer(bytearray(base64.b64decode(frame["plane"])), dtype=torch.uint8)
    with torch.no_grad():
        theirs = SimpleNN()(training.plane()).reshape(-1)
    assert (levels / 255 - theirs).abs().max() < 1 / 255
    assert training.plane()[0].tolist() == pytest.approx([-0.5 + 1 / 33, 1.5 - 1 / 33])  # above on the left


def test_a_thousand_networks_at_once_are_each_trained_alone():
    data = fates(seeds=12, epochs=40)
    behind = torch.frombuffer(bytearray(base64.b64decode(data["behind"])), dtype=torch.float32).reshape(12, 9)
    for seed in range(12):
        frames, _ = trained(seed, 40)
        torch.testing.assert_close(behind[seed], frames[40][0], rtol=1e-4, atol=1e-5)
        assert data["last"][seed] == pytest.approx(frames[40][2], rel=1e-4)
        with torch.no_grad():
            torch.manual_seed(seed)
            off = (SimpleNN().fc1(X) <= 0).all(0)
        assert data["deadBefore"][seed] == int(off.sum())
    assert sum(data["counts"]) == 12 and data["fate"].count(1) == data["counts"][1]


def test_what_became_of_a_network_is_read_off_its_units():
    networks = Networks(range(3))
    with torch.no_grad():
        w1, b1, w2, b2 = networks.w1[..., 0], networks.b1[..., 0], networks.w2[..., 0], networks.b2[..., 0]
        w1.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, 1, 1], [-1, -1, -1, -1]]).T)
        b1.copy_(torch.tensor([[0.0, -1], [-1, 1], [-1, -1]]).T)
        w2.copy_(torch.tensor([[20.0, -40], [1, 1], [1, 1]]).T)
        b2.copy_(torch.tensor([[-10.0, 0, 0]]))
    from memograd.explain.lesson.seeds import _fates

    with torch.no_grad():
        named = [FATES[k] for k in _fates(networks, X, Y, networks.answers(X)).tolist()]
    assert named == ["learned", "one dead", "both dead"]


@pytest.mark.slow
def test_767_of_1000_seeds_fail():
    assert fates()["counts"] == [233, 461, 101, 102, 103]

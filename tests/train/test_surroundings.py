"""What stands around a step: inference mode, modes of the user's, arguments that have no memory."""

import contextlib
import copy

import pytest
import torch
from torch import nn, optim
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import memograd as mg

torch.manual_seed(0)
X, Y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)


class Doubled(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.ops.aten.tanh.default else out


class DoubledFunction(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.tanh else out


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def by_pytorch(modes):
    model = network()
    optimizer = optim.Adam(model.parameters(), 0.1)
    for mode in modes:
        optimizer.zero_grad()
        with mode():
            nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
    return list(model.parameters())


def by_us(modes, **options):
    model = network()
    step = mg.TrainStep(model, nn.functional.mse_loss, optim.Adam(model.parameters(), 0.1), **options)
    for mode in modes:
        with mode():
            step(X, Y)
    step.finish()
    return list(model.parameters())


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_step_is_the_same_without_gradients_around_it(around, check):
    for modes in ([around, around], [contextlib.nullcontext, around, contextlib.nullcontext]):
        torch.testing.assert_close(by_us(modes, check=check), by_pytorch([contextlib.nullcontext] * len(modes)))


def test_steps_that_gather_and_run_leave_inference_mode_too():
    plain = [contextlib.nullcontext] * 2
    once = by_us(plain, accumulate=2)
    torch.testing.assert_close(by_us([torch.inference_mode] * 2, accumulate=2), once)
    model = network()
    step = mg.TrainStep(model, nn.functional.mse_loss, optim.Adam(model.parameters(), 0.1))
    with torch.inference_mode():
        losses = step.run(X.clone(), Y, steps=2)
    assert not losses.is_inference()
    torch.testing.assert_close(list(model.parameters()), by_pytorch(plain))


@pytest.mark.parametrize("mode", [Doubled, DoubledFunction])
@pytest.mark.parametrize("backend", ["auto", "eager", "native"])
@pytest.mark.filterwarnings("ignore:running on the eager backend")
def test_a_mode_around_a_step_sees_its_operators(mode, backend):
    for modes in ([mode], [contextlib.nullcontext] * 2 + [mode], [mode, contextlib.nullcontext]):
        torch.testing.assert_close(by_us(modes, backend=backend), by_pytorch(modes))


@pytest.mark.parametrize("mode", [Doubled, DoubledFunction])
@pytest.mark.parametrize("backend", ["auto", "eager", "native"])
def test_a_mode_around_a_wrapped_model_sees_its_operators(mode, backend):
    ours, theirs = mg.wrap(network(), backend=backend), network()
    for around in (contextlib.nullcontext, mode, contextlib.nullcontext):
        for model in (ours, theirs):
            with around():
                model(X).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


class Rectified(TorchDispatchMode):
    """Turns what a rectifier gives upside down."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return -out if func is torch.ops.aten.relu.default else out


def test_a_mode_sees_operators_that_are_compiled_loops_without_it():
    """Pooling of a large image behind a rectifier, which change places; the loss alone tells."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 15 * 15, 1))
    x, y = torch.randn(16, 1, 32, 32), torch.zeros(16, 1)
    plain = copy.deepcopy(model)
    step = mg.TrainStep(model, nn.functional.mse_loss, optim.SGD(model.parameters(), 1e-3), check="never")
    optimizer = optim.SGD(plain.parameters(), 1e-3)
    for around in (contextlib.nullcontext, Rectified, contextlib.nullcontext):
        with around():
            ours, theirs = step(x, y), nn.functional.mse_loss(plain(x), y)
            optimizer.zero_grad()
            theirs.backward()
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach())
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()), rtol=1e-4, atol=1e-6)


def sparse_step(backend):
    model = nn.Linear(3, 1)
    loss = lambda p, y: ((p - y) ** 2).mean()  # noqa: E731
    return model, loss, mg.TrainStep(model, loss, optim.SGD(model.parameters(), 0.1), backend=backend)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_sparse_batch_is_trained_on(backend):
    sparse, target = torch.eye(4, 3).to_sparse(), torch.zeros(4, 1)
    ours, loss, step = sparse_step(backend)
    theirs = copy.deepcopy(ours)
    optimizer = optim.SGD(theirs.parameters(), 0.1)
    for _ in range(2):
        step(sparse, target)
        optimizer.zero_grad()
        loss(theirs(sparse), target).backward()
        optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_the_native_backend_refuses_a_sparse_batch_by_name():
    with pytest.raises(mg.MemogradError, match="sparse_coo"):
        sparse_step("native")[2](torch.eye(4, 3).to_sparse(), torch.zeros(4, 1))

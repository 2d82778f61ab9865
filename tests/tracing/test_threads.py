"""Several threads at once: every call is right, and nobody sees the tensors of somebody else's capture."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import planted
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 24, dtype=F64).reshape(6, 4)


@pytest.fixture(autouse=True)
def threads_change_often() -> Iterator[None]:
    """So that faults show within a second."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*jobs: Callable[[], None]) -> None:
    """Run the jobs in threads of their own; the first error is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


def of_autograd(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def check_new_functions(seed: int, calls: int = 12) -> None:
    for k in range(seed * calls, (seed + 1) * calls):
        x, w = torch.linspace(0, 1, 3 + k % 5, dtype=F64), torch.full((3 + k % 5,), 0.1 * (k % 7), dtype=F64)

        def f(x: torch.Tensor, w: torch.Tensor = w, k: int = k) -> torch.Tensor:
            y = torch.zeros_like(x) + x.sin() * w
            for _ in range(k % 3):
                y = y.tanh() * x.exp()
            return (y**2).sum() if k % 4 or x.sum() > 0 else y.sum()  # some look at values

        torch.testing.assert_close(mg.grad(f)(x), of_autograd(f, x))
        assert type(torch.randn(2) + 1) is torch.Tensor


@pytest.mark.parametrize("count", [2, 4])
def test_new_functions_on_several_threads(count: int) -> None:
    at_once(*[lambda seed=seed: check_new_functions(seed) for seed in range(count)])


def test_one_transform_on_several_threads() -> None:
    gradient = mg.grad(lambda x: (x.sin() * x).sum())

    def job() -> None:
        for n in (1, 2, 3, 4):
            x = torch.linspace(0, 1, n, dtype=F64)
            torch.testing.assert_close(gradient(x), x.sin() + x * x.cos())

    at_once(job, job, job, job)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


def test_functions_with_a_backward_of_their_own_on_several_threads() -> None:
    mg.rule(Scaled)

    def job(seed: int) -> None:
        for k in range(8):
            f = lambda x, k=k: (Scaled.apply(x) * x * (seed + k)).sum()  # noqa: E731
            torch.testing.assert_close(mg.grad(f)(X), of_autograd(f, X))

    at_once(*[lambda seed=seed: job(seed) for seed in (1, 2, 3)])


def test_a_model_runs_plainly_in_one_thread_while_it_is_captured_in_others() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 1)).double().eval()
    reference, done = model(X).detach(), threading.Event()

    def plainly() -> None:
        while not done.is_set():
            out = model(X)
            assert type(out) is torch.Tensor and torch.equal(out, reference)
            assert all(type(p) is nn.Parameter for p in model.parameters())

    def captured(seed: int) -> None:
        for k in range(8):
            f = lambda x, k=k: (model(x) * (seed + k)).sum()  # noqa: E731
            torch.testing.assert_close(mg.grad(f)(X), of_autograd(f, X))

    with ThreadPoolExecutor(3) as pool:
        plain, captures = pool.submit(plainly), [pool.submit(captured, seed) for seed in (1, 20)]
        try:
            for capture in captures:
                capture.result()
        finally:
            done.set()
        plain.result()


@pytest.mark.parametrize("count", [2, 4])
def test_training_steps_on_several_threads(count: int) -> None:
    def job(seed: int) -> None:
        with_us = nn.Sequential(nn.Linear(4, 4 + seed), nn.Tanh(), nn.BatchNorm1d(4 + seed), nn.Linear(4 + seed, 1))
        with_us.double()
        plain, y = copy.deepcopy(with_us), X[:, :1].sin() * seed
        step = mg.TrainStep(
            with_us, nn.functional.mse_loss, torch.optim.AdamW(with_us.parameters(), 0.01), backend="eager"
        )
        optimizer = torch.optim.AdamW(plain.parameters(), 0.01)
        for _ in range(4):
            ours, loss = step(X, y), nn.functional.mse_loss(plain(X), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(ours, loss.detach())
        for p, q in zip(with_us.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q)

    at_once(*[lambda seed=seed: job(seed) for seed in range(count)])


def test_one_step_on_several_threads_is_one_update_at_a_time() -> None:
    model = nn.Linear(4, 1, bias=False).double()
    start = model.weight.detach().clone()
    step = mg.TrainStep(model, lambda out, target: (out * 0 + model.weight.sum()).sum() * target, _sgd(model))
    at_once(*[lambda: [step(X[:1], torch.ones((), dtype=F64)) for _ in range(25)]] * 4)
    torch.testing.assert_close(model.weight.detach(), start - 100 * 0.5)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.5)


class Differentiating(Dataset):
    """A data set whose samples are made with gradients of ours."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        x = torch.full((4,), float(i)) + torch.zeros(4)
        return mg.grad(lambda a: (a.sin() * (i + 1)).sum())(x)


def test_workers_forked_while_a_program_is_captured() -> None:
    """A child starts with nobody's turn, though its parent had somebody capturing."""
    started, done = threading.Event(), threading.Event()

    def slow(x: torch.Tensor) -> torch.Tensor:
        started.set()
        assert done.wait(60)
        return x.sum()

    with ThreadPoolExecutor(1) as pool:
        capture = pool.submit(mg.grad(slow), X)
        assert started.wait(60)
        try:
            loader = DataLoader(Differentiating(), 4, num_workers=1, multiprocessing_context="fork", timeout=30)
            samples = torch.cat(list(loader))
        finally:
            done.set()
        assert torch.equal(capture.result(), torch.ones_like(X))
    i = torch.arange(8.0)[:, None].expand(8, 4)
    torch.testing.assert_close(samples, i.cos() * (i + 1))


def test_tensors_of_a_capture_in_another_thread_are_refused() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(mg.grad(lambda y: y.sum()), x).result().sum()

    with pytest.raises(mg.CaptureError, match="another thread"):
        mg.grad(f)(X)


class Dropping(nn.Module):
    """Dropout, and what dropout is of no matter for the result (as in LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.last = nn.Linear(4, 16), nn.Linear(4, 3), nn.Linear(16, 1)
        self.up = nn.Parameter(torch.zeros(16, 3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.first(x).tanh()) + self.down(self.drop(x)) @ self.up.T)


def _first_step(kind: str) -> str:
    """Train a new model; how its comparison with PyTorch came out."""
    model = Dropping().double()
    if kind == "step":
        step = mg.TrainStep(model, nn.functional.mse_loss, _sgd(model), backend="eager")
        step(X, X[:, :1])
        return step.check_reason
    mg.wrap(model)
    nn.functional.mse_loss(model(X), X[:, :1]).backward()
    return model.forward.check_reason  # pyright: ignore[reportFunctionMemberAccess]


@pytest.fixture
def another_thread_draws() -> Iterator[None]:
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(50)

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.mark.parametrize("kind", ["step", "wrap"])
@pytest.mark.usefixtures("another_thread_draws")
def test_a_first_step_with_dropout_agrees_while_other_threads_draw(kind: str) -> None:
    at_once(*[lambda: check(_first_step(kind))] * 2)


def check(reason: str) -> None:
    assert reason.startswith("agrees with torch.autograd"), reason


@pytest.mark.parametrize("kind", ["step", "wrap"])
@pytest.mark.usefixtures("another_thread_draws")
def test_a_wrong_rule_is_caught_while_other_threads_draw(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.rule(monkeypatch, torch.ops.aten.tanh.default, planted.scaled)
    with pytest.raises(mg.GradientMismatchError):
        _first_step(kind)

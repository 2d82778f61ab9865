"""One pass over each parameter: the numbers of the operators one by one, in place, and only where that is safe."""

import copy
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim

import memograd as mg
from memograd import c_compiler
from memograd.run.threads import at_once
from memograd.run.updates.update import _split

ONE_PASS = "asked for; one pass over each of {} parameters updates it"


def beside_torch(model: nn.Module, make, batches, criterion=None, steps: int = 4, tolerance: float = 1e-5, **options):
    theirs = copy.deepcopy(model)
    optimizers = [make(m.parameters()) for m in (model, theirs)]
    step = mg.TrainStep(model, criterion or nn.MSELoss(), optimizers[0], backend="eager", **options)
    for k in range(steps):
        x, y = batches[k % len(batches)]
        step(x, y)
        optimizers[1].zero_grad()
        (criterion or nn.MSELoss())(theirs(x), y).backward()
        optimizers[1].step()
    torch.testing.assert_close(model.state_dict(), theirs.state_dict(), rtol=tolerance, atol=tolerance)
    return step


def data(*shape: int, out: tuple[int, ...], dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(s, generator=generator).to(dtype) for s in (shape, out)) for _ in range(2)]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


KINDS = [
    lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    lambda p: optim.AdamW(p, lr=0.01, amsgrad=True),
    lambda p: optim.RAdam(p, lr=0.01),
    lambda p: optim.NAdam(p, lr=0.01),
    lambda p: optim.Adagrad(p, lr=0.01),
    lambda p: optim.Adamax(p, lr=0.01),
    lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
]


@pytest.mark.parametrize("make", KINDS)
def test_updates_are_pytorchs_in_float32(make) -> None:
    step = beside_torch(mlp(), make, data(5, 6, out=(5, 3)), steps=8)
    assert step.backend_reason == ONE_PASS.format(4)


@pytest.mark.parametrize("make", KINDS[:4])
def test_nothing_is_left_of_the_update_but_its_loops(make) -> None:
    step = beside_torch(mlp(), make, data(5, 6, out=(5, 3)))
    updates = step._required().choice.backend.updates
    assert updates is not None
    in_loops = sum(len(r.nodes) for r in updates.regions if r.name != "numbers")
    assert in_loops == len([n for n in step.graph.nodes if "update_of" in n.meta and n.meta["val"].dim()])


@pytest.mark.parametrize("make", KINDS)
def test_updates_are_those_of_operators_to_the_last_bit(make, monkeypatch) -> None:
    """A memory budget runs them one by one, and promises the same bits."""
    batches, models = data(5, 6, out=(5, 3)), [mlp(), mlp()]
    for model, compiler in zip(models, (True, False), strict=True):
        with monkeypatch.context() as patch:
            if not compiler:
                patch.setattr(c_compiler, "compiler", lambda: None)
            step = mg.TrainStep(model, nn.MSELoss(), make(model.parameters()), backend="eager")
            for k in range(8):
                step(*batches[k % 2])
            assert ("one pass over each" in step.backend_reason) == compiler
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_clipping_and_averages_are_in_the_pass() -> None:
    step = beside_torch_with_averages()
    updates = step._required().choice.backend.updates
    assert updates is not None and all(
        len(r.results) == 4 for r in updates.regions if r.name != "numbers"
    )  # p, two moments, the average


def beside_torch_with_averages() -> mg.TrainStep:
    model = mlp()
    theirs = copy.deepcopy(model)
    averaged = optim.swa_utils.AveragedModel(theirs, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizers = [optim.Adam(m.parameters(), lr=0.01) for m in (model, theirs)]
    step = mg.TrainStep(
        model, nn.MSELoss(), optimizers[0], backend="eager", clip_grad_norm=0.1, clip_grad_value=0.05, ema_decay=0.9
    )
    for x, y in data(5, 6, out=(5, 3)) * 3:
        step(x, y)
        optimizers[1].zero_grad()
        nn.MSELoss()(theirs(x), y).backward()
        nn.utils.clip_grad_value_(theirs.parameters(), 0.05)
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizers[1].step()
        averaged.update_parameters(theirs)
    torch.testing.assert_close(model.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(step.ema_state_dict(), averaged.module.state_dict(), rtol=1e-5, atol=1e-6)
    return step


def test_what_is_computed_elsewhere_is_what_is_written_in_place() -> None:
    step = beside_torch(mlp(), KINDS[1], data(5, 6, out=(5, 3)))
    backend = step._required().choice.backend
    flat = step._required().flat(data(5, 6, out=(5, 3))[0], {})
    before = [t.clone() for t in flat]
    new = backend.compute(flat)
    assert all(torch.equal(a, b) for a, b in zip(flat, before, strict=True))
    backend.step(flat)
    assert all(torch.equal(flat[place], new[result]) for result, place in backend.feedback.items())


# -- what memory may look like -------------------------------------------------------------------------------------


class Remembers(nn.Module):
    """Its buffers are what its parameter was before the update, and the gradient reads it late."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        self.register_buffer("before", torch.zeros(3, 4))
        self.register_buffer("turned", torch.zeros(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.before.copy_(self.weight)
            self.turned.copy_(self.weight.t())
        return x @ self.weight.t()


def test_others_see_the_old_value_of_what_is_updated() -> None:
    beside_torch(Remembers(), KINDS[0], data(5, 4, out=(5, 3)))


def test_a_gradient_may_lie_otherwise_than_its_parameter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).to(memory_format=torch.channels_last)
    step = beside_torch(model, KINDS[1], data(2, 3, 8, 8, out=(2, 3)))
    assert step.backend_reason == ONE_PASS.format(4)


def test_a_parameter_with_gaps_is_updated_operator_by_operator() -> None:
    model = mlp()
    model[0].weight = nn.Parameter(torch.randn(16, 12)[:, ::2])
    step = beside_torch(model, KINDS[1], data(5, 6, out=(5, 3)))
    assert step.backend_reason == ONE_PASS.format(3) + ", 1 operator by operator"


def test_a_dtype_that_c_has_not_runs_operator_by_operator() -> None:
    step = beside_torch(mlp().bfloat16(), KINDS[0], data(5, 6, out=(5, 3), dtype=torch.bfloat16), tolerance=0.1)
    assert "updates run operator by operator" in step.backend_reason


def test_of_batches_that_are_gathered_the_update_behind_them_is_told() -> None:
    model, batches = mlp(), data(5, 6, out=(5, 3))
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), backend="eager", accumulate=2)
    for told in ("asked for", ONE_PASS.format(4)):
        step(*batches[0])
        assert step.backend_reason == told


def test_without_a_compiler_updates_run_operator_by_operator(monkeypatch) -> None:
    monkeypatch.setattr(c_compiler, "compiler", lambda: None)
    step = beside_torch(mlp(), KINDS[2], data(5, 6, out=(5, 3)))
    assert "updates run operator by operator: the native backend needs a C compiler" in step.backend_reason


def test_autograd_knows_that_a_parameter_was_written_to() -> None:
    model, batches = mlp(), data(5, 6, out=(5, 3))
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), backend="eager")
    loss = model(batches[0][0]).square().sum()
    step(*batches[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Given(torch.autograd.Function):
    """Its derivative is an input, as it lies."""

    @staticmethod
    def forward(ctx, w, y):
        ctx.save_for_backward(y)
        return (w * y).sum()

    @staticmethod
    def backward(ctx, *grads):
        return ctx.saved_tensors[0], None


class Gives(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(5.0))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return Given.apply(self.weight, y)  # pyright: ignore


def test_a_gradient_that_lies_in_memory_with_the_other_sign() -> None:
    parts = torch.complex(torch.ones(5), torch.arange(1.0, 6))
    y = torch._neg_view(parts.imag.contiguous())
    assert y.is_neg() and y.is_contiguous()
    step = beside_torch(Gives(), KINDS[0], [(y, torch.zeros(()))], criterion=lambda out, _: out, check="never")
    assert step.backend_reason == ONE_PASS.format(1)


# -- threads -------------------------------------------------------------------------------------------------------


def test_the_other_threads_are_waited_for_whatever_happens_on_this_one() -> None:
    """Ctrl-C: they write to memory that is released when the exception leaves."""
    done: list[int] = []

    def call(part: int) -> None:
        if part == 0:
            raise KeyboardInterrupt
        time.sleep(0.1)
        done.append(part)

    with pytest.raises(KeyboardInterrupt):
        at_once(call, [(0,), (1,)])
    assert done == [1]


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    model, (batch, _) = nn.Linear(1000, 700), data(3, 1000, out=(3, 700))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            twin = copy.deepcopy(model)
            step = mg.TrainStep(
                twin, nn.MSELoss(), optim.SGD(twin.parameters(), lr=0.1), backend="eager", check="never"
            )
            updates = None
            for _ in range(2):
                step(*batch)
            updates = step._required().choice.backend.updates
            assert updates is not None and len(updates._tasks(count)) == min(count, 2)
            results.append([p.detach() for p in twin.parameters()])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        torch.testing.assert_close(others, results[0], rtol=1e-6, atol=1e-7)


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=8), count=st.integers(1, 5))
def test_every_element_is_in_one_task(sizes, count) -> None:
    parts = _split([(0, k, n) for k, n in enumerate(sizes)], sum(sizes), count)
    done = [(t.at, i) for part in parts for t in part for i in range(t.first, t.last)]
    assert sorted(done) == [(k, i) for k, n in enumerate(sizes) for i in range(n)]
    assert max(sum(t.last - t.first for t in part) for part in parts) <= -(-sum(sizes) // min(count, sum(sizes))) + 1

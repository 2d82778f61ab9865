"""What runs a wrapped model: the native backend, asked for and chosen. Witness: the same model, not wrapped."""

import copy
import gc
import os
import resource
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import profile

import memograd as mg
from memograd import c_compiler
from memograd.frontend import load
from memograd.run.convolutions.case import Case
from memograd.run.pool.library import POOL

F64 = torch.float64
needs_c = pytest.mark.skipif(c_compiler.compiler() is None, reason="there is no C compiler")


def mlp() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 2)).double()


def pair(backend: str = "native") -> tuple[Any, Any]:
    theirs = mlp()
    return mg.wrap(copy.deepcopy(theirs), backend=backend), theirs


def batch(rows: int = 4, grad: bool = False) -> torch.Tensor:
    return torch.randn(rows, 3, dtype=F64, generator=torch.Generator().manual_seed(rows)).requires_grad_(grad)


def operators(run: Any, of: str = "aten::") -> set[str]:
    with profile() as watched:
        run()
    return {e.name for e in watched.events() or () if e.name.startswith(of)}  # pyright: ignore[reportOptionalIterable]


def agree(ours: Any, theirs: Any) -> None:
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


def first_order(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def second_order(model: Any, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.mean() + g.square().mean()


@needs_c
class TestNative:
    @pytest.mark.parametrize("loss", [first_order, second_order])
    def test_training_is_pytorchs(self, loss):
        ours, theirs = pair()
        for model in (ours, theirs):
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            for _ in range(6):
                optimizer.zero_grad()
                loss(model, batch(grad=True)).backward()
                optimizer.step()
        agree(ours, theirs)
        assert ours.forward.check_reason.startswith("agrees")

    def test_no_operator_runs_in_the_passes(self):
        ours, _ = pair()
        for _ in range(3):
            first_order(ours, batch()).backward()
        y = ours(batch())
        assert not {"aten::addmm", "aten::tanh"} & operators(lambda: ours(batch()))
        assert "aten::mm" not in operators(lambda: y.backward(torch.ones_like(y)))

    def test_what_it_cannot_run_it_refuses_at_the_call(self):
        model = mg.wrap(nn.Conv2d(1, 2, 3), backend="native")
        with pytest.raises(mg.BackendError, match="convolution"):
            model(torch.randn(1, 1, 5, 5))

    @pytest.mark.parametrize("results", [lambda h: (h, h[:, 0]), lambda h: (h.t(), h)], ids=["a part", "all of it"])
    def test_results_that_share_memory_are_refused(self, results):
        class Views(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(3, 2)

            def forward(self, x):
                return results(self.linear(x))

        with pytest.raises(mg.BackendError, match="results 0 and 1 of the model share memory"):
            mg.wrap(Views(), backend="native")(torch.ones(4, 3))

    def test_a_result_that_is_a_view_of_an_argument_is_refused(self):
        class Rows(nn.Linear):
            def forward(self, x):
                return super().forward(x), x[0]

        with pytest.raises(mg.BackendError, match="result 1 of the model is a view of what it was given"):
            mg.wrap(Rows(3, 2), backend="native")(torch.ones(4, 3))

    def test_a_model_that_looks_at_values_runs_on_eager_and_says_so(self):
        class Branch(nn.Linear):
            def forward(self, x):
                y = super().forward(x)
                return y if y.sum() > 0 else -y

        ours = mg.wrap(Branch(3, 2).double(), backend="native")
        with pytest.warns(UserWarning, match="eager backend: the model decides by values"):
            ours(batch()).sum().backward()

    def test_a_budget_is_held_by_eager(self):
        with pytest.warns(UserWarning, match="eager backend: native decides itself"):
            mg.wrap(mlp(), memory_budget="1MiB", backend="native")

    @pytest.mark.parametrize("backend", ["native", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_batches_of_cotangents(self, backend: str):
        ours, theirs = pair(backend)
        seeds = torch.eye(8, dtype=F64).reshape(8, 4, 2)
        first_order(ours, batch(grad=True)).backward()  # compiled for cotangents that are no batch
        for _ in range(2):
            x = batch(grad=True)
            rows = [torch.autograd.grad(m(x), x, seeds, is_grads_batched=True)[0] for m in (ours, theirs)]
        torch.testing.assert_close(*rows)

    def test_arguments_and_saved_values_may_lie_in_memory_as_they_like(self):
        ours, theirs = pair()
        x = torch.randn(3, 4, dtype=F64).t()

        def strided(t: torch.Tensor) -> torch.Tensor:
            return t.t().contiguous().t() if t.dim() == 2 else t

        for model in (ours, theirs):
            for _ in range(2):
                with torch.autograd.graph.saved_tensors_hooks(strided, lambda t: t):
                    loss = model(x).square().sum()
                loss.backward()
        agree(ours, theirs)

    def test_nothing_of_a_call_stays_alive(self):
        ours, _ = pair()
        x = batch(grad=True)
        first_order(ours, x).backward()
        first_order(ours, x).backward()
        there = weakref.ref(x)
        del x
        gc.collect()
        assert there() is None


@needs_c
class TestAuto:
    @pytest.fixture
    def timed(self, monkeypatch):
        """Two calls until it is tried, and times that are made up: of the text, then of the native backend."""
        times = [2.0, 1.0] * load._TRIALS
        monkeypatch.setattr(load, "_CALLS", 2)
        monkeypatch.setattr(load.clock, "seconds", lambda call, trials: times.pop(0) if times else 1.0)
        return times

    def used(self, model: Any) -> bool:
        return "aten::addmm" not in operators(lambda: model(batch()))

    def trained(self, ours: Any, theirs: Any) -> None:
        for _ in range(4):
            for model in (ours, theirs):
                model.zero_grad()
                first_order(model, batch()).backward()
        agree(ours, theirs)

    def test_what_is_faster_is_taken(self, timed):
        ours, theirs = pair("auto")
        assert not self.used(ours)
        self.trained(ours, theirs)
        assert self.used(ours)

    def test_what_is_not_faster_is_not(self, timed):
        timed[:] = [1.0, 0.95] * load._TRIALS
        ours, theirs = pair("auto")
        self.trained(ours, theirs)
        assert not self.used(ours)

    @pytest.mark.parametrize("why", ["other numbers", "deterministic", "too large"])
    def test_eager_goes_on(self, timed, monkeypatch, why):
        if why == "other numbers":
            build = load._native
            monkeypatch.setattr(load, "_native", lambda g: lambda given: tuple(t + 1e-3 for t in build(g)(given)))
        elif why == "too large":
            monkeypatch.setattr(load, "_ELEMENTS", 10)
        torch.use_deterministic_algorithms(why == "deterministic")
        try:
            ours, theirs = pair("auto")
            self.trained(ours, theirs)
            assert not self.used(ours)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_what_native_cannot_run_runs_as_before(self, timed):
        theirs: Any = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten()).double()
        ours = mg.wrap(copy.deepcopy(theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for model in (ours, theirs):
                for _ in range(5):
                    model(torch.ones(2, 1, 4, dtype=F64)).sum().backward()
        agree(ours, theirs)


@pytest.mark.skipif(POOL.wait() is None, reason=f"no pool here: {POOL.reason}")
class TestMemory:
    def wide(self, **options: Any) -> tuple[Any, torch.Tensor]:
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)]
        return mg.wrap(nn.Sequential(*layers), check="never", **options), torch.randn(4096, 64)  # values of a MiB

    @pytest.mark.parametrize("budget", [None, "80%"])
    def test_the_passes_take_no_fresh_memory_after_their_first_runs(self, budget):
        model, x = self.wide(memory_budget=budget)
        seed = torch.ones(4096, 64)

        def step() -> None:
            model.zero_grad()
            model(x).backward(seed)

        for _ in range(4):
            step()
        assert POOL.library is not None
        outside = POOL.library.pool_number(0)
        y = model(x)
        assert POOL.library.pool_number(0) > outside + (1 << 20)
        y.backward(seed)
        del y
        region = POOL.library.pool_number(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            step()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 256  # one value is that many pages
        assert POOL.library.pool_number(1) == region

    def test_what_somebody_keeps_is_never_written_to(self):
        model, x = self.wide()
        kept, copies = [], []
        for k in range(4):
            model.zero_grad()
            y = model(x + k)
            y.square().sum().backward()
            kept += [y, *(p.grad for p in model.parameters())]
            copies += [t.detach().clone() for t in kept[len(copies) :]]
        del model, y
        gc.collect()
        assert all(map(torch.equal, kept, copies))

    def test_it_goes_back_to_the_system_with_the_model(self):
        model, x = self.wide()
        for _ in range(3):
            model(x).sum().backward()

        def resident() -> int:
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before = resident()
        del model
        gc.collect()
        assert before - resident() > 4 << 20  # what the backward pass reads


@pytest.mark.parametrize("name", ["given", "step", "torch", "aten"])
def test_names_of_the_user_s_do_not_clash_with_those_of_the_text(name):
    """An argument and a parameter are called like what the text of a pass is given, calls, or reads."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, nn.Parameter(torch.ones(3, dtype=F64)))

        def forward(self, **arguments):
            return (getattr(self, name) * arguments[name]).sin().square().mean()

    theirs = Named()
    ours = mg.wrap(copy.deepcopy(theirs), backend="eager")
    for model in (theirs, ours):
        for rows in (2, 2, 2):
            model(**{name: batch(rows)}).backward()
    torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad)


@needs_c
@pytest.mark.parametrize("by", ["winograd", "patches"])
def test_convolutions_by_the_fastest_algorithm(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second order, and a batch of cotangents, are PyTorch's up to rounding."""
    monkeypatch.setattr(Case, "fastest", lambda case: by)
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(4, 3, 3, padding=1, bias=False),
    )
    ours, x = copy.deepcopy(plain), torch.randn(3, 2, 12, 12)
    mg.wrap(ours, backend="convolutions")
    ran = operators(lambda: ours(x).sum().backward(), "memograd::")
    assert {"memograd::convolution", "memograd::convolution_filter_gradient"} <= ran
    for loss in (first_order, second_order):
        gradients = []
        for model in (ours, plain):
            model.zero_grad()
            loss(model, x.clone().requires_grad_()).backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    rows = []
    for model in (ours, plain):
        y = model(given := x.clone().requires_grad_())
        seeds = torch.stack([torch.ones_like(y), torch.arange(1.0, 1 + y.numel()).view_as(y) / y.numel()])
        rows.append(torch.autograd.grad(y, given, seeds, is_grads_batched=True)[0])
    torch.testing.assert_close(*rows, rtol=1e-3, atol=1e-4)


def test_convolutions_promise_no_budget() -> None:
    with pytest.warns(UserWarning, match="convolutions decides itself what it allocates"):
        mg.wrap(nn.Conv2d(1, 1, 3), memory_budget="1MB", backend="convolutions")

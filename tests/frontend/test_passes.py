"""Gradients of gradients: what is computed for them, what is remembered, and that they are PyTorch's."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import profile

import memograd as mg
from memograd.rules import registry

F64 = torch.float64


def mlp(inputs: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 1)
    )


def derivative(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def penalty(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (derivative(model(x), x).norm(dim=1) - 1).square().mean()


def forces(model: Any, x: torch.Tensor) -> torch.Tensor:
    energy = model(x)
    return energy.square().mean() + (derivative(energy, x) - 1).square().mean()


def burgers(model: Any, x: torch.Tensor) -> torch.Tensor:
    """A third derivative of the model, once it is trained: u_t + u u_x - u_xx."""
    u = model(x)
    first = derivative(u, x)
    second = derivative(first[:, 0], x)[:, :1]
    return (first[:, 1:2] + u * first[:, :1] - 0.1 * second).square().mean()


def taking_turns(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Two calls of one program, asked differently."""
    return penalty(model, x) + model(x * 2).square().mean()


def hessian(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Third derivatives by all inputs: several second passes behind one first."""
    u = model(x)
    first = derivative(u, x)
    rows = [derivative(first[:, k], x) for k in range(x.shape[1])]
    return torch.stack(rows).square().mean() + u.square().mean()


USES: list[Callable[[Any, torch.Tensor], torch.Tensor]] = [penalty, forces, burgers, taking_turns]


def operators(run: Callable[[], Any]) -> Counter[str]:
    with profile() as watched:
        run()
    return Counter(e.name for e in watched.events() or () if e.name.startswith("aten::"))  # pyright: ignore[reportOptionalIterable]


@pytest.mark.parametrize("use", USES, ids=lambda u: u.__name__)
def test_training_through_gradients_is_pytorchs(use):
    torch.manual_seed(0)
    theirs: Any = mlp().double()
    ours = mg.wrap(copy.deepcopy(theirs))
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses.append([])
        for _ in range(8):
            x = torch.randn(7, 3, dtype=F64).requires_grad_()
            optimizer.zero_grad()
            loss = use(model, x)
            loss.backward()
            losses[-1] += [loss.item(), x.grad]
            optimizer.step()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-11)
    assert ours.forward.captures == ["the first call"]
    assert ours.forward.check_reason.endswith("and a derivative of these") or use is taking_turns


@pytest.mark.parametrize("use", USES, ids=lambda u: u.__name__)
def test_once_it_is_foreseen_no_product_of_matrices_is_formed_that_pytorch_does_not_form(use):
    theirs: Any = mlp()
    ours = mg.wrap(copy.deepcopy(theirs))
    counts = []
    for model in (ours, theirs):
        x = torch.randn(7, 3, requires_grad=True)
        for _ in range(5):
            use(model, x).backward()
        counts.append(operators(lambda m=model, x=x: use(m, x).backward()))
    for product in ("aten::mm", "aten::addmm", "aten::tanh", "aten::sigmoid"):
        assert 0 < counts[0][product] <= counts[1][product], product


class Sine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


def assert_equal_to_the_last_bit(use: Any, ours: Any, theirs: Any, batches: list[torch.Tensor]) -> None:
    """The gradients of a step on each of the batches, from the first one on."""
    for x in batches:
        x.requires_grad_()
        gradients: list[list[torch.Tensor]] = []
        for model in (ours, theirs):
            model.zero_grad()
            x.grad = None
            use(model, x).backward()
            gradients.append([p.grad for p in (x, *model.parameters()) if p.grad is not None])
        assert all(map(torch.equal, *gradients))


ACTIVATIONS: list[Any] = [nn.Tanh, Sine, nn.Sigmoid, nn.Softplus, nn.ELU, nn.SiLU]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.__name__)
@pytest.mark.parametrize("use", [penalty, forces], ids=lambda u: u.__name__)
def test_gradients_of_gradients_are_pytorchs_to_the_last_bit(use, activation):
    torch.manual_seed(0)
    theirs: Any = nn.Sequential(nn.Linear(3, 9), activation(), nn.Linear(9, 9), activation(), nn.Linear(9, 1))
    ours = mg.wrap(copy.deepcopy(theirs), backend="eager")
    assert_equal_to_the_last_bit(use, ours, theirs, [torch.randn(17, 3) for _ in range(4)])


SMOOTH: list[Any] = [nn.Tanh, Sine, nn.Sigmoid, nn.Softplus, nn.ELU]


class Residual(nn.Module):
    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(9, 9), activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.activation(self.linear(x))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("activation", SMOOTH, ids=lambda a: a.__name__)
@pytest.mark.parametrize("use", [burgers, hessian], ids=lambda u: u.__name__)
def test_gradients_of_third_order_are_pytorchs_to_the_last_bit(use, activation, seed):
    """From the first step on, when nothing is foreseen."""
    torch.manual_seed(seed)
    blocks = [activation(), nn.Linear(9, 9), activation(), nn.Linear(9, 9), activation(), Residual(activation)]
    theirs: Any = nn.Sequential(nn.Linear(2, 9), *blocks, nn.Linear(9, 1))
    ours = mg.wrap(copy.deepcopy(theirs), backend="eager", check="never")
    assert_equal_to_the_last_bit(use, ours, theirs, [torch.randn(17, 2) for _ in range(3)])


def test_what_was_remembered_in_case_somebody_goes_on_is_forgotten_once_nobody_did():
    model: Any = mg.wrap(mlp().eval(), check="never")
    x = torch.randn(7, 3, requires_grad=True)
    handed: list[int] = []
    for _ in range(3):
        gradient = derivative(model(x), x)
        handed.append(len(gradient.grad_fn._input_metadata))
        gradient.square().sum().backward()
    assert handed[0] > handed[1] == handed[2] == 1


class LossAndScores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp().eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.layers(x)
        return scores.square().mean(), scores


def test_the_first_backward_pass_computes_nothing_again_where_all_that_it_reads_is_remembered():
    """All results were expected to be used, and one is."""
    theirs: Any = LossAndScores()
    ours = mg.wrap(copy.deepcopy(theirs), check="never")
    counts, gradients = [], []
    for model in (ours, theirs):
        loss, _ = model(torch.linspace(-1, 1, 21).view(7, 3))
        counts.append(operators(loss.backward))  # (of products also those of the derivation's symbols)
        gradients.append([p.grad for p in model.parameters()])
    assert counts[0]["aten::addmm"] == counts[0]["aten::tanh"] == 0
    torch.testing.assert_close(*gradients)


def test_what_nobody_asked_for_is_not_computed():
    """``autograd.grad(y, x)`` wants no gradients of weights."""
    theirs: Any = mlp()
    ours = mg.wrap(copy.deepcopy(theirs), check="never")
    counts = []
    for model in (ours, theirs):
        x = torch.randn(7, 3, requires_grad=True)
        for _ in range(3):
            torch.autograd.grad(model(x).sum(), x)
        counts.append(operators(lambda m=model, x=x: torch.autograd.grad(m(x).sum(), x))["aten::mm"])
    assert counts[0] == counts[1] == 3


def test_gradients_of_weights_lie_in_memory_as_the_weights_do():
    """Who accumulates them takes them over then, and copies nothing."""
    model = mg.wrap(mlp(), check="never")
    x = torch.randn(7, 3)
    for _ in range(2):
        model.zero_grad()
        model(x).sum().backward()
    assert all(p.grad is not None and p.grad.is_contiguous() for p in model.parameters())
    model.zero_grad()
    y, seed = model(x), torch.ones(7, 1)
    assert operators(lambda: y.backward(seed))["aten::clone"] == 0


def peak(model: nn.Module, x: torch.Tensor) -> int:
    for _ in range(3):
        model.zero_grad()
        model(x).sum().backward()
    model.zero_grad()
    with profile(profile_memory=True) as watched:
        model(x).sum().backward()
    held = most = 0
    assert watched.profiler is not None
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_what_is_remembered_dies_behind_its_last_use():
    """Without a budget a call takes no more memory than PyTorch's (2 % for the sake of small things)."""
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)) for _ in range(6)]
    theirs: Any = nn.Sequential(*blocks, nn.Linear(64, 1))
    x = torch.randn(256, 64)
    assert peak(mg.wrap(copy.deepcopy(theirs), check="never"), x) <= 1.02 * peak(theirs, x)


def test_a_wrong_second_derivative_is_caught(monkeypatch):
    """The rule of tanh_backward has no part in a first derivative."""
    right: Any = registry._TABLE[torch.ops.aten.tanh_backward.default]
    wrong = dataclasses.replace(right, function=lambda *a: tuple(g * 1.05 for g in right.function(*a)))
    monkeypatch.setitem(registry._TABLE, torch.ops.aten.tanh_backward.default, wrong)
    model = mg.wrap(mlp().double())
    model(torch.ones(4, 3, dtype=F64)).sum().backward()
    with pytest.raises(mg.GradientMismatchError, match="the second derivative by"):
        penalty(model, torch.ones(4, 3, dtype=F64).requires_grad_())


def test_many_cotangents_at_once():
    torch.manual_seed(0)
    theirs: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    ours = mg.wrap(copy.deepcopy(theirs))
    x = torch.randn(5, 3, dtype=F64, requires_grad=True)
    jacobians = [torch.autograd.functional.jacobian(model, x, vectorize=True) for model in (ours, ours, theirs)]
    torch.testing.assert_close(jacobians[:2], jacobians[2:] * 2)


def test_many_cotangents_at_once_and_further():
    """The Jacobian in one call, with a history: its own gradients, and those of one of its columns."""
    torch.manual_seed(0)
    theirs: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    ours = mg.wrap(copy.deepcopy(theirs))
    seeds = torch.eye(10, dtype=F64).view(10, 5, 2)
    seen = []
    for model in (ours, ours, ours, theirs):
        model.zero_grad()
        x = torch.linspace(-1, 1, 15, dtype=F64).view(5, 3).requires_grad_()
        y = model(x)
        (jacobian,) = torch.autograd.grad(y, x, seeds, is_grads_batched=True, create_graph=True)
        (second,) = torch.autograd.grad(jacobian[3].square().sum() + y.sum(), x, create_graph=True)
        (jacobian.square().sum() + second.sin().sum()).backward()
        seen.append([jacobian, second, x.grad, *(p.grad for p in model.parameters())])
    for results in seen[:3]:
        torch.testing.assert_close(results, seen[3])


def test_many_cotangents_of_gradients():
    """The rows of a Hessian, of a pass that is not the first."""
    theirs: Any = mlp().eval().double()
    ours = mg.wrap(copy.deepcopy(theirs))
    seen = []
    for model in (ours, ours, theirs):
        x = torch.linspace(-1, 1, 3, dtype=F64).view(1, 3).requires_grad_()
        gradient = derivative(model(x), x)
        seeds = torch.eye(3, dtype=F64).view(3, 1, 3)
        (hessian,) = torch.autograd.grad(gradient, x, seeds, is_grads_batched=True, create_graph=True)
        seen += [hessian, *torch.autograd.grad(hessian.square().sum(), [x, *model.parameters()], allow_unused=True)]
    third = len(seen) // 3
    for at in (0, third):
        torch.testing.assert_close(seen[at : at + third], seen[2 * third :])


def test_forward_mode_runs_the_models_own_forward():
    theirs: Any = mlp().eval().double()
    ours = mg.wrap(copy.deepcopy(theirs))
    x, direction = torch.ones(2, 3, dtype=F64), torch.full((2, 3), 2.0, dtype=F64)
    tangents = []
    for model in (ours, theirs):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, direction)
            tangents.append(torch.autograd.forward_ad.unpack_dual(model(dual)).tangent)
    torch.testing.assert_close(tangents[0], tangents[1])
    assert ours.forward.captures == []


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.trunk(x).tanh()
        return self.one(h), self.other(h)


def test_questions_that_take_turns_are_each_answered_anew():
    """A ready answer is for its own question: other results used, other gradients wanted, somebody who goes on."""
    torch.manual_seed(0)
    theirs: Any = TwoHeads().double()
    ours = mg.wrap(copy.deepcopy(theirs))
    seen = []
    for model in (ours, theirs):
        seen.append([])
        for step in range(16):
            x = torch.full((5, 3), 0.1 * step, dtype=F64, requires_grad=True)
            one, other = model(x)
            if step % 4 == 0:
                one.square().sum().backward()
            elif step % 4 == 1:
                (one.sum() * other.sum()).backward()
            elif step % 4 == 2:
                seen[-1] += torch.autograd.grad(other.square().sum(), x)
            else:
                derivative(one.square(), x).square().sum().backward()
            seen[-1] += [None if p.grad is None else p.grad.clone() for p in (x, *model.parameters())]
    torch.testing.assert_close(seen[0], seen[1])


def test_an_answer_that_was_ready_comes_in_segments_once_somebody_waits_for_them(monkeypatch):
    monkeypatch.setattr("memograd.frontend.segments.LEAST_BYTES", 0)
    model = mg.wrap(mlp().eval(), check="never")
    model[0].weight.requires_grad_()
    for _ in range(4):
        model(torch.ones(2, 3)).sum().backward()
    wanted = [p.grad.clone() / 4 for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    seen: list[torch.Tensor] = []
    handle = model[5].weight.register_hook(seen.append)
    model(torch.ones(2, 3)).sum().backward()
    handle.remove()
    torch.testing.assert_close([p.grad for p in model.parameters()], wanted)
    assert len(seen) == 1


class RealAndComplex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real = nn.Parameter(torch.randn(3, dtype=F64))
        self.complex = nn.Parameter(torch.randn(3, dtype=torch.complex128))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * self.real * self.complex.abs(), (x * self.complex) ** 2 * self.real


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("results", [(0,), (1,), (0, 1)])
def test_cotangents_that_are_to_be_conjugated_or_negated(results: tuple[int, ...], further: bool) -> None:
    plain = RealAndComplex()
    model = mg.wrap(copy.deepcopy(plain))
    z = torch.randn(3, dtype=torch.complex128)
    cotangents = [z.conj().imag, z.conj()]
    assert cotangents[0].is_neg() and cotangents[1].is_conj()
    for step in range(4):
        seen = []
        for each in (plain, model):
            x = torch.full((3,), 0.5 + step, dtype=F64, requires_grad=True)
            out, inputs = each(x), (x, *each.parameters())
            some, given = [out[k] for k in results], [cotangents[k] for k in results]
            gradients = torch.autograd.grad(some, inputs, given, create_graph=further, allow_unused=True)
            if further:
                total = torch.stack([g.abs().square().sum() for g in gradients if g is not None]).sum()
                gradients += torch.autograd.grad(total, inputs, allow_unused=True)
            seen.append(gradients)
        torch.testing.assert_close(*seen)


@pytest.mark.parametrize("check", ["first", "never"])
def test_gradients_of_gradients_where_values_decide_shapes(check: str) -> None:
    """Backward operators are taken apart for them, in graphs that mask, look for what is unique and branch too."""

    class Groups(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = nn.functional.silu(self.a(x))
            h = 2 * h if h.mean() > 0.1 else h
            kinds, of, count = x[:, 0].round().unique(return_inverse=True, return_counts=True)
            means = torch.zeros(len(kinds), 4, dtype=x.dtype).index_add(0, of, h) / count[:, None]
            return nn.functional.silu(self.b(means[means.sum(1) > -0.2])).sum()

    def forces(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor | None]:
        energy = model(x)
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
        (energy + force.square().sum()).backward()
        return [force, x.grad, *(p.grad for p in model.parameters())]

    torch.manual_seed(0)
    plain = Groups().double()
    ours = mg.wrap(copy.deepcopy(plain), check=check)
    for _ in range(3):
        x = torch.randn(5, 3, dtype=torch.float64)
        expected = forces(plain, x.clone().requires_grad_())
        torch.testing.assert_close(forces(ours, x.clone().requires_grad_()), expected, rtol=1e-10, atol=1e-12)

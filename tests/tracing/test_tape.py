"""Concrete tapes: functions whose shapes or branches depend on values, through every transform, against autograd."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg
from memograd._torch import is_fake
from memograd.tracing.capture import trace

DOUBLE = torch.float64
X = torch.randn(5, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
COUNTS = torch.tensor([1, 2, 3, 0, 1])


def branch(x):
    return (x**2).sum() if x.sum() > 0 else (x**3).sum()


def loop(x):
    while x.norm() > 0.5:
        x = x * x.cos() * 0.5
    return (x**3).sum()


def masked_write(x):
    y = x.clone()
    y[y > 0] = y[y > 0] ** 2
    return (y**2).sum()


def in_place_views(x):
    y = x * 1
    y.mul_(2).unsqueeze_(0)
    y.squeeze_()
    z = y[y > 0]
    z.add_(1)
    return (z**2).sum()


def write_behind_autograd(x):
    y = x * 2
    y.data.mul_(3)
    return (y[y > 0] * y[y > 0]).sum()


def istft(x):
    window = torch.hann_window(16, dtype=DOUBLE)
    return torch.istft(torch.stft(x.repeat(20), 16, window=window, return_complex=True), 16, window=window).pow(2).sum()


FUNCTIONS = {
    "branch": branch,
    "loop": loop,
    "item": lambda x: (x * x * x.max().item()).sum(),
    "numpy": lambda x: (x * x * float(x.detach().numpy().max())).sum(),
    "mask": lambda x: (x[x > 0] ** 3).sum(),
    "mask of rows": lambda x: (torch.outer(x, x)[x > 0] ** 2).sum(),
    "masked write": masked_write,
    "in-place views": in_place_views,
    "write behind autograd": write_behind_autograd,
    "constant of the program": lambda x: (torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) * x * x)[x > 0].sum(),
    "masked_select": lambda x: torch.masked_select(x, x > 0).exp().sum(),
    "nonzero": lambda x: x[torch.nonzero(x > 0).squeeze(1)].sin().sum(),
    "combinations": lambda x: (torch.combinations(x) ** 3).sum(),
    "tensor_split": lambda x: (torch.tensor_split(x, torch.tensor([2, 3]))[1] ** 3).sum(),
    "repeat_interleave": lambda x: (torch.repeat_interleave(x, COUNTS) ** 3).sum(),
    "one_hot": lambda x: (F.one_hot(COUNTS) * x[:, None]).pow(3).sum(),
    "unique": lambda x: (x * torch.unique(x > 0).numel()).pow(3).sum(),
    "gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, x * 2, x.exp()),
}


def theirs(f, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return leaf, gradient


@pytest.mark.one_in(3)
@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("x", [X, -X], ids=["x", "-x"])
def test_first_and_second_order(f, x):
    with pytest.raises(mg.CaptureError):
        mg.capture(f, x)  # a graph for any values cannot be had
    check(f, x)


def test_an_operator_that_checks_its_own_window():
    """That decides the same whenever it runs: captured for any values."""
    graph = mg.differentiate(mg.capture(istft, X))
    torch.testing.assert_close(graph(X.cos())[1]["x"], theirs(istft, X.cos())[1].detach())
    check(istft, X)


def check(f, x):
    leaf, gradient = theirs(f, x)
    torch.testing.assert_close(mg.grad(f)(x), gradient.detach())
    way = x.cos()
    (expected,) = torch.autograd.grad((gradient * way).sum(), leaf)
    torch.testing.assert_close(mg.hvp(f, x, way), expected)
    torch.testing.assert_close(mg.hessian(f)(x) @ way, expected)
    torch.testing.assert_close(mg.grad(lambda y: (mg.grad(f)(y) * way).sum())(x), expected)


def test_each_call_takes_its_own_branch():
    gradient = mg.grad(branch)
    for x in (X, -X, X, X - 10):
        torch.testing.assert_close(gradient(x), theirs(branch, x)[1].detach())


def test_results_whose_length_depends_on_values():
    def f(x):
        return x[x > 0] * x.sum()

    jacobian = torch.autograd.functional.jacobian(f, X)
    torch.testing.assert_close(mg.jacrev(f)(X), jacobian)
    torch.testing.assert_close(mg.jvp(f, (X,), (X.cos(),)), (f(X), jacobian @ X.cos()))
    out, pull = mg.vjp(f, X)
    for seed in (torch.ones_like(out), out.sin()):
        torch.testing.assert_close(pull(seed), (jacobian.T @ seed,))


def noisy(x):
    noise, kept = torch.rand(5, dtype=DOUBLE), torch.empty(5, dtype=DOUBLE).bernoulli_(0.5)
    y = F.dropout(x, 0.5) * kept
    y = y * y if torch.rand(()) > 0.5 else y * 3
    return (y * noise)[noise > 0.3].pow(3).sum() + y.sum()


@pytest.mark.parametrize("seed", range(6))
def test_random_numbers_are_those_of_one_run(seed):
    torch.manual_seed(seed)
    ours, after = mg.grad(noisy)(X), torch.rand(())
    torch.manual_seed(seed)
    expected = theirs(noisy, X)[1].detach()
    torch.testing.assert_close((ours, after), (expected, torch.rand(())))
    torch.manual_seed(seed)
    ours = mg.hessian(noisy)(X)
    torch.manual_seed(seed)
    torch.testing.assert_close(ours, torch.autograd.functional.hessian(noisy, X))


def test_what_the_program_writes_to_is_written_once():
    norm = nn.BatchNorm1d(3).double()
    twin, count = copy.deepcopy(norm), torch.zeros(3, dtype=DOUBLE)

    def f(x, count, module=norm):
        count.add_(1)
        y = module(x) * count
        return y[y > 0].pow(3).sum()

    x = torch.randn(7, 3, dtype=DOUBLE)
    ours = mg.grad(f)(x, count)
    torch.testing.assert_close(ours, theirs(lambda x: f(x, torch.zeros(3), twin), x)[1].detach())
    assert torch.equal(count, torch.ones(3)) and norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_var, twin.running_var)
    assert norm.weight.grad is None


def test_overlapping_and_offset_memory_is_copied_as_it_lies():
    wide = X.expand(3, 5)
    torch.testing.assert_close(mg.grad(lambda x: (x[x > 0] ** 2).sum())(wide), torch.where(wide > 0, 2 * wide, 0.0))
    odd = torch.randn(4, 6, dtype=DOUBLE)[1:, ::2].t()
    torch.testing.assert_close(mg.grad(lambda x: (x[x > 0] ** 2).sum())(odd), torch.where(odd > 0, 2 * odd, 0.0))


def test_memory_that_is_filled_behind_the_dispatcher():
    """``ctc_loss`` divides by the lengths, which C++ writes into an empty tensor directly."""
    target = torch.tensor([[1, 2, 2], [3, 1, 1]])

    def f(x):
        return F.ctc_loss(torch.outer(x, x[:4]).unsqueeze(1).expand(5, 2, 4).log_softmax(-1), target, [5, 4], [3, 2])

    torch.testing.assert_close(mg.grad(f)(X), theirs(f, X)[1].detach())


def test_nodes_of_a_concrete_graph_are_documented_as_usual():
    graph = trace(nn.Sequential(Positive()), (X,), {}, concrete=True)
    where = {str(n.target): (n.meta["module"], n.meta["source"].split(":")[0]) for n in graph.nodes}
    assert where["aten.index.Tensor"] == ("0", "tests/tracing/test_tape.py")
    assert all(is_fake(n.meta["val"]) for n in graph.nodes if isinstance(n.meta["val"], torch.Tensor))


class Positive(nn.Module):
    def forward(self, x):
        return x[x > 0].sum()


def test_graphs_that_are_used_again_stay_refused():
    with pytest.raises(mg.CaptureError, match="needs a tensor's value"):
        mg.capture(lambda x: mg.grad(branch)(x), X)


def test_a_step_compares_what_it_was_captured_for():
    model = nn.Linear(5, 1).double()
    step = mg.TrainStep(model, lambda out, y: branch(out - y), torch.optim.SGD(model.parameters(), 0.1))
    for y in (X[:1], X[:1] + 10, X[:1]):
        expected = branch(model(X) - y).detach()
        torch.testing.assert_close(step(X, y), expected)


def test_only_what_is_differentiated_requires_a_gradient():
    """The target of ``soft_margin_loss`` may not require one."""
    target = X.sign()
    expected = theirs(lambda x: F.soft_margin_loss(x, target), X)[1].detach()
    torch.testing.assert_close(mg.grad(F.soft_margin_loss)(X, target), expected)
    with pytest.raises(RuntimeError, match="target") as refused:
        mg.grad(F.soft_margin_loss, argnums=(0, 1))(X, target)
    assert not isinstance(refused.value, mg.MemogradError)  # these are PyTorch's own words
    graph = mg.capture(F.soft_margin_loss, X.clone().requires_grad_(), target)
    torch.testing.assert_close(mg.differentiate(graph)(X, target)[1], {"input": expected})
    with pytest.raises(mg.GraphError, match="'target' was captured as an input that is not differentiated"):
        mg.differentiate(graph, ["target"])
    model = nn.Linear(5, 5).double()
    step = mg.TrainStep(model, nn.SoftMarginLoss(), torch.optim.SGD(model.parameters(), 0.1))
    loss = F.soft_margin_loss(model(X), target).detach()
    torch.testing.assert_close(step(X, target), loss)

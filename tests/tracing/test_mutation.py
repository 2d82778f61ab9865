"""Writes mean what they mean to autograd: into fresh memory, through views, past `detach`, behind a saved result."""

import pytest
import torch
from idioms.agreement import check_function
from torch import nn
from torch.nn import functional as F

import memograd as mg

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DOUBLE = {"dtype": torch.float64}
MASK = torch.eye(3, 4, dtype=torch.bool)

FACTORIES = {
    "zeros": lambda x: torch.zeros(3, 4, **DOUBLE),
    "zeros_like": torch.zeros_like,
    "ones": lambda x: torch.ones(3, 4, **DOUBLE),
    "ones_like": torch.ones_like,
    "empty": lambda x: torch.empty(3, 4, **DOUBLE),
    "empty_like": torch.empty_like,
    "empty_strided": lambda x: torch.empty_strided((3, 4), (1, 3), **DOUBLE),
    "full": lambda x: torch.full((3, 4), 2.0, **DOUBLE),
    "full_like": lambda x: torch.full_like(x, 2.0),
    "arange": lambda x: torch.arange(12, **DOUBLE).view(3, 4),
    "linspace": lambda x: torch.linspace(0, 1, 12, **DOUBLE).view(3, 4),
    "logspace": lambda x: torch.logspace(0, 1, 12, **DOUBLE).view(3, 4),
    "eye": lambda x: torch.eye(3, 4, **DOUBLE),
    "rand": lambda x: torch.rand(3, 4, **DOUBLE),
    "randn_like": torch.randn_like,
    "tensor": lambda x: torch.tensor([[0.0] * 4] * 3, **DOUBLE),
    "new_zeros": lambda x: x.new_zeros(3, 4),
    "new_empty": lambda x: x.new_empty(3, 4),
}

WRITES = {
    "a column": lambda out, x: out.__setitem__((slice(None), 1), x[:, 1].sin()),
    "a mask": lambda out, x: out.__setitem__(MASK, x.diagonal().sin()),
    "an index": lambda out, x: out.__setitem__(torch.tensor([0, 2]), x[:2].sin()),
    "+=": lambda out, x: out.__iadd__(x.sin()),
    "*=": lambda out, x: out.__imul__(x.sin()),
    "copy_": lambda out, x: out.copy_(x.sin()),
    "index_add_": lambda out, x: out.index_add_(0, torch.tensor([0, 0, 1]), x.sin()),
    "scatter_add_": lambda out, x: out.scatter_add_(1, torch.zeros(3, 4, dtype=torch.long), x.sin()),
    "masked_fill_": lambda out, x: out.masked_fill_(MASK, x.sum()),
    "masked_scatter_": lambda out, x: out.masked_scatter_(MASK, x.sin()),
    "a view of a view": lambda out, x: out.t()[1:][0].mul_(x[:, 0]).add_(x[:, 1]),
    "a strided view": lambda out, x: out.view(-1)[::2].copy_(x.reshape(-1)[::2].exp()),
    "what was detached": lambda out, x: out.detach().add_(x.sin()),
    "data": lambda out, x: out.data.mul_(2.0),
}


def check(f, x=X):
    """Value, gradient and second derivative of the scalar ``f`` as autograd has them."""
    leaf = x.clone().requires_grad_()
    torch.manual_seed(0)
    value = f(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    way = torch.linspace(-1, 1, x.numel(), **DOUBLE).view_as(x)
    second = torch.zeros_like(x)
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient, leaf, way, allow_unused=True, materialize_grads=True)
    torch.manual_seed(0)
    ours = mg.value_and_grad(f)(x)
    torch.testing.assert_close(ours, (value.detach(), gradient.detach()), rtol=1e-9, atol=1e-10)
    torch.manual_seed(0)
    torch.testing.assert_close(mg.hvp(f, x, way), second, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("factory", FACTORIES)
def test_writes_into_fresh_memory(factory):
    def f(x):
        out = FACTORIES[factory](x)
        for t in range(x.shape[1]):
            out[:, t] = x[:, t].sin()
        return (out**2).sum()

    check(f)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "computed"])
@pytest.mark.parametrize("write", WRITES)
def test_every_kind_of_write(write, fresh):
    def f(x):
        out = torch.ones(3, 4, **DOUBLE) if fresh else x * 2
        WRITES[write](out, x)
        return (out**2 * x).sum()

    check(f)


def test_an_accumulator():
    def f(x):
        loss = torch.zeros((), **DOUBLE)
        for t in range(4):
            loss += x[:, t].sin().sum()
        return loss

    check(f)


# -- detach begins a history of its own over the same memory -----------------------------------------------------------


def what_is_written_through_it_depends(x):
    y = (x * 3).detach()
    y *= x
    return (y * x).sum()


def the_base_keeps_its_own_history(x):
    y = x * 2
    z = y.detach()
    z.mul_(x)
    return (y * x).sum() + (z * z).sum()


def it_sees_numbers_written_to_the_base(x):
    y = x * 2
    z = y.detach()
    y.mul_(x)
    return (z * x).sum() + y.sum()


def a_part_of_it(x):
    y = x * 2
    y[0].data.mul_(3.0)
    return (y * y * x).sum()


def detached_twice(x):
    y = torch.zeros(3, 4, **DOUBLE)
    z = y[1:].detach()
    w = z[:, 1:].detach()
    w += x[1:, 1:]
    z *= x[1:]
    return (y * x).sum() + (z * z).sum() + (w * x[:2, :3]).sum()


def hidden_writes_through_it(x):
    y = (x * 2).detach()
    y *= x
    with torch.no_grad():
        y.clamp_(-0.5, 0.5)
    return (y * x).sum()


@pytest.mark.parametrize(
    "f",
    [
        what_is_written_through_it_depends,
        the_base_keeps_its_own_history,
        it_sees_numbers_written_to_the_base,
        a_part_of_it,
        detached_twice,
        hidden_writes_through_it,
    ],
    ids=lambda f: f.__name__,
)
def test_detach_begins_a_history(f):
    check(f)


# -- results that operators save for their backward: PyTorch detaches them too -----------------------------------------

SAVES_ITS_RESULT = {
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "exp": lambda x: x.exp(),
    "exp_": lambda x: (x * 1).exp_(),
    "a view, in place": lambda x: (lambda y: (y[0].tanh_(), y)[1])(x * 2),
    "sqrt": lambda x: (x.abs() + 1).sqrt(),
    "rsqrt": lambda x: (x.abs() + 1).rsqrt(),
    "tan": lambda x: x.tan(),
    "reciprocal": lambda x: (x.abs() + 1).reciprocal(),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "norm": lambda x: x.norm(dim=1),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "group_norm": lambda x: F.group_norm(x[None].transpose(1, 2), 2),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.T + 5 * torch.eye(3, **DOUBLE)),
    "inv": lambda x: torch.linalg.inv(x @ x.T + 5 * torch.eye(3, **DOUBLE)),
    "straight through": lambda x: (lambda s: (s > 0.5).double() - s.detach() + s)(x.sigmoid()),
}


@pytest.mark.parametrize("name", SAVES_ITS_RESULT)
def test_a_gradient_inside_reads_saved_results(name):
    def f(x):
        x = x if x.requires_grad else x.requires_grad_()
        y = SAVES_ITS_RESULT[name](x)
        (inner,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return (inner**2).sum() + y.sum()

    leaf = X.clone().requires_grad_()
    value = f(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(mg.value_and_grad(f)(X), (value.detach(), gradient), rtol=1e-9, atol=1e-10)


class DecoderWithCache(nn.Module):
    """The tutorial's way to collect outputs, and a cache that is written in place."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        hidden = torch.zeros(2, 5, **DOUBLE)
        outputs, cache = torch.zeros(3, 2, 4, **DOUBLE), torch.empty(3, 2, 5, **DOUBLE)
        for t in range(3):
            hidden = self.cell(x, hidden)
            cache[t] = hidden
            outputs[t] = x = self.out(cache[: t + 1].mean(0)).tanh()
        return outputs.transpose(0, 1)


def test_a_step_of_a_decoder_with_a_cache():
    torch.manual_seed(0)
    ours, theirs = DecoderWithCache().double(), DecoderWithCache().double()
    theirs.load_state_dict(ours.state_dict())
    x, y = torch.randn(2, 4, **DOUBLE), torch.randn(2, 3, 4, **DOUBLE)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.mse_loss(theirs(x), y)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, y), loss.detach(), rtol=1e-10, atol=1e-12)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=name)


# -- `x.data = y` passes no dispatcher ---------------------------------------------------------------------------------


def memory_of_another(x):
    y = x * 2
    y.data = x.detach() * 3
    return (y * y).sum()


def memory_in_common(x):
    y, z = x * 2, x.detach() + 1
    y.data = z
    z += x
    return (y * x).sum() + (z * z).sum()


@pytest.mark.parametrize("f", [memory_of_another, memory_in_common], ids=lambda f: f.__name__)
def test_data_is_assigned(f):
    check(f)


class Clipped(nn.Module):
    """Weights clipped in the forward, as WGAN's critic has them, in three ways people write it; a buffer likewise."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.linear = nn.Linear(4, 4).double()
        self.register_buffer("calls", torch.ones(4, **DOUBLE))

    def forward(self, x):
        weight = self.linear.weight
        if self.way == "data =":
            weight.data = weight.data.clamp(-0.2, 0.2)
        elif self.way == "data.clamp_":
            weight.data.clamp_(-0.2, 0.2)
        else:
            with torch.no_grad():
                weight.clamp_(-0.2, 0.2)
        self.calls.data = self.calls.data + 1
        return (self.linear(x) * self.calls).square().mean()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad], ids=lambda o: o.__name__)
@pytest.mark.parametrize("way", ["data =", "data.clamp_", "no_grad"])
def test_a_parameter_that_the_forward_writes_to_is_updated_from_there(way, make):
    torch.manual_seed(0)
    ours, theirs = Clipped(way), Clipped(way)
    theirs.load_state_dict(ours.state_dict())
    optimizer = make(theirs.parameters(), lr=0.1)
    step = mg.TrainStep(ours, None, make(ours.parameters(), lr=0.1))
    for _ in range(3):
        optimizer.zero_grad()
        loss = theirs(X)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(X), loss.detach(), rtol=1e-10, atol=1e-12)
    for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11, msg=name)


def test_a_tensor_made_of_numbers_is_new_at_each_call():
    def f(x):
        total = torch.tensor([1.0, 2.0], **DOUBLE)
        total += x
        return (total * x).sum()

    x = torch.tensor([0.5, -1.0], **DOUBLE)
    graph = mg.capture(f, x)
    assert not graph.positions("mutation")
    for _ in range(2):
        torch.testing.assert_close(graph(x), f(x), rtol=0, atol=0)


FILLED = {
    "eye": lambda out: torch.eye(3, 4, out=out),
    "zeros": lambda out: torch.zeros(3, 4, out=out),
    "ones": lambda out: torch.ones(3, 4, out=out),
    "full": lambda out: torch.full((3, 4), 2.0, out=out),
    "randn": lambda out: torch.randn(3, 4, out=out),
    "arange": lambda out: torch.arange(4, out=out[0]),
    "arange from": lambda out: torch.arange(1, 5, out=out[0]),
    "linspace": lambda out: torch.linspace(0, 1, 4, out=out[1]),
    "logspace": lambda out: torch.logspace(0, 1, 4, out=out[1]),
}


@pytest.mark.parametrize("name", FILLED)
def test_functions_that_fill_out_are_values(name):
    """They have no functional twin of the same arguments: dtype and device are those of ``out``."""

    def f(x):
        out = torch.ones(3, 4, **DOUBLE)
        FILLED[name](out)
        out[1] *= x[0]
        return (out * x).pow(2).sum()

    leaf = X.clone().requires_grad_()
    torch.manual_seed(0)
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.manual_seed(0)
    torch.testing.assert_close(mg.grad(f)(X), expected)


@pytest.mark.parametrize("operator", ["__ilshift__", "__irshift__", "__iand__", "__ior__", "__ixor__"])
def test_bits_are_written_in_place(operator):
    def f(x):
        n = torch.arange(4, device=x.device)
        n = getattr(n, operator)(torch.tensor([1, 2, 1, 3]))
        return (x * n).sum()

    leaf = X.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(f)(X), *torch.autograd.grad(f(leaf), leaf))


def rows_of_complex_numbers(x, w):
    z = x + 1j * w
    z[0] = w.flip(0)
    z[:, 1:] *= 2j
    z.conj()[0, :1] = x[1, :1]
    z.conj()[:, 1:] *= w[:1]
    return (z.imag * w).sum() + z.abs().sum()


def test_second_derivatives_of_writes_to_parts_of_complex_numbers():
    x, w = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3), torch.tensor([0.3, 0.7, -0.4], dtype=torch.float64)
    check_function(rows_of_complex_numbers, [x, w])
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rows_of_complex_numbers(at, w), at, create_graph=True)
    (expected,) = torch.autograd.grad(gradient.square().sum(), at)
    twice = mg.grad(lambda x: mg.grad(rows_of_complex_numbers)(x, w).square().sum())(x)
    torch.testing.assert_close(twice, expected)

"""Functions as people write them, a few lines each, against plain torch.autograd: first and second derivative."""

import math

import pytest
import torch
from idioms.agreement import Holds, check_function, check_step
from torch.nn import functional as F

Z = {"dtype": torch.float64}
X = torch.tensor([[0.3, -1.2, 2.0, 0.7], [1.1, 0.4, -0.6, -1.5], [-0.2, 0.9, 1.7, 0.5]], **Z)
W = torch.tensor([0.5, -0.8, 1.3, 0.9], **Z)
J = torch.tensor([0, 0, 1])


def number(x, w):
    loss = torch.zeros((), **Z)
    for t in range(4):
        loss += x[:, t].sin().sum() * w[t]
    return loss


def number_of_python(x, w):
    loss = 0
    for row in x:
        loss += (row * w).tanh().sum()
    return loss


def tensor_of_a_number(x, w):
    total = torch.tensor(0.0, **Z)
    for k, row in enumerate(x):
        total += (row @ w) ** k
    return total


def running_product(x, w):
    out = torch.ones((), **Z)
    for t in range(4):
        out *= 1 + x[0, t] * w[t]
    return out


def running_mean(x, w):
    mean = torch.zeros(4, **Z)
    for count, row in enumerate(x, 1):
        mean += (row * w - mean) / count
    return (mean**2).sum()


def loss_of_parts(x, w):
    losses = {"a": (x * w).sum(), "b": x.square().mean()}
    total = torch.zeros(1, **Z)
    for value in losses.values():
        total += value
    return total.squeeze()


def recurrence(x, w):
    h, outputs = torch.zeros(3, **Z), []
    for t in range(4):
        h = torch.tanh(x[:, t] + h * w[t])
        outputs.append(h)
    return (torch.stack(outputs, 1) * x).sum()


def recurrence_in_place(x, w):
    h = torch.zeros(3, **Z)
    for t in range(4):
        h = h.clone()
        h += x[:, t] * w[t]
    return h.exp().sum()


def cache(x, w):
    keys, out = torch.zeros(4, 3, **Z), torch.zeros(4, **Z)
    for t in range(4):
        keys[t] = x[:, t] * w[t]
        out[t] = (keys[: t + 1].clone() @ x[:, t]).softmax(0).max()
    return out.sum()


def cache_that_grows(x, w):
    past = x.new_zeros(3, 0)
    for t in range(4):
        past = torch.cat([past, x[:, t : t + 1] * w[t]], 1)
    return past.cumsum(1).square().sum()


def dynamic_program(x, w):
    table = torch.full((3, 4), math.inf, **Z)
    table[0, 0] = 0
    for i in range(1, 3):
        for j in range(1, 4):
            before = torch.stack([table[i - 1, j], table[i, j - 1], table[i - 1, j - 1]])
            table[i, j] = (x[i - 1, j - 1] - w[j - 1]) ** 2 + before.min()
    return table[-1, -1]


def soft_dynamic_program(x, w):
    table = torch.zeros(3, 4, **Z)
    for i in range(1, 3):
        for j in range(1, 4):
            before = torch.stack([table[i - 1, j], table[i, j - 1], table[i - 1, j - 1]])
            table[i, j] = x[i - 1, j - 1] * w[j - 1] - torch.logsumexp(-before, 0)
    return table[-1, -1]


def matrix_filled_entry_by_entry(x, w):
    k = torch.zeros(4, 4, **Z)
    for i in range(3):
        for j in range(i, 3):
            k[i, j] = k[j, i] = torch.exp(-((w[i] - w[j]) ** 2)) * x[0, i] * x[0, j]
    return (k @ w).sum()


def diagonal_matrix(x, w):
    m = torch.zeros(4, 4, **Z)
    m[range(4), range(4)] = w
    m.diagonal(1).copy_(w[:3] ** 2)
    return (x @ m).tanh().sum()


def skew_matrix(x, w):
    k = torch.zeros(3, 3, **Z)
    k[0, 1], k[0, 2], k[1, 2] = -w[2], w[1], -w[0]
    k = k - k.T
    return ((torch.eye(3, **Z) + k + k @ k) @ x).sum()


def read_before_and_after(x, w):
    y = x * w
    before = y[0].clone()
    y[0] = y[1] * 2
    return (before * y[0]).sum()


def view_made_before_the_write(x, w):
    y = x * w
    row = y[0]
    y.mul_(2)
    return (row * row).sum()


def view_written_base_read(x, w):
    y = x * w
    y[1].mul_(w)
    y.t()[2].add_(1)
    return (y * y).sum()


def two_views_of_one(x, w):
    y = x * 1
    a, b = y[:, :3], y[:, 1:]
    a.mul_(2)
    b.add_(w[1:])
    return (a * b).sum()


def padded(x, w):
    out = torch.zeros(5, 6, **Z)
    out[1:-1, 1:-1] = x
    return (out[:-2, :-2] * out[2:, 2:]).sum() * w.sum()


def shifted(x, w):
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, :-1]
    out[:, 0] = w[0]
    return (out * x).sum()


def rotary(x, w):
    out = torch.empty_like(x)
    out[..., ::2] = x[..., ::2] * w[:2].cos() - x[..., 1::2] * w[:2].sin()
    out[..., 1::2] = x[..., 1::2] * w[:2].cos() + x[..., ::2] * w[:2].sin()
    return (out @ out.T).tanh().sum()


def causal_mask(x, w):
    scores = (x * w) @ x.T
    scores = scores.masked_fill(torch.triu(torch.ones(3, 3), 1).bool(), -math.inf)
    return (scores.softmax(-1) @ x).square().sum()


def positional_table(x, w):
    table = torch.zeros(3, 4, **Z)
    position = torch.arange(3, **Z)[:, None]
    table[:, 0::2] = torch.sin(position * w[:2])
    table[:, 1::2] = torch.cos(position * w[:2])
    return ((x + table) ** 2).sum()


def no_grad_in_the_middle(x, w):
    y = x * w
    with torch.no_grad():
        scale = y.norm()
        y.clamp_(-1, 1)
    return (y / scale).square().sum()


def enable_grad_inside_no_grad(x, w):
    with torch.no_grad():
        a = x * 2
        with torch.enable_grad():
            b = x * w
        c = b * 3
    return (a * b + c * x).sum()


def set_grad_enabled_as_a_call(x, w):
    torch.set_grad_enabled(False)
    y = x * w
    torch.set_grad_enabled(True)
    return (y * x).sum()


def decorated_without_gradients(x, w):
    @torch.no_grad()
    def statistics(y):
        return y.mean(), y.std()

    mean, std = statistics(x * w)
    return ((x * w - mean) / std).pow(3).sum()


def straight_through(x, w):
    y = x * w
    return (((y.round() - y).detach() + y) * x).sum()


def stop_gradient_by_data(x, w):
    return (x * (x * w).data).sum()


def detached_then_written(x, w):
    z = (x * 3).detach()
    z *= w
    return (z + z * x).sum()


def out_argument(x, w):
    out = torch.empty(3, 4, **Z)
    with torch.no_grad():
        torch.mul(x, w, out=out)
    return (out * x).sum()


def dropout_twice(x, w):
    y = F.dropout(x * w, 0.5)
    return (y * F.dropout(y, 0.25)).sum()


def noise(x, w):
    return ((x + torch.randn_like(x) * w) ** 2).sum() + torch.rand(4, **Z) @ w


def noise_in_place(x, w):
    e = torch.empty_like(x).normal_()
    mask = torch.empty_like(x).bernoulli_(0.5)
    return (x * w.exp() * e * mask).square().sum()


def inner_gradient_tanh(x, w):
    x = x * 1
    (g,) = torch.autograd.grad((x * w).tanh().sum(), x, create_graph=True)
    return (g**2).sum()


def inner_gradient_softmax(x, w):
    x = x * 1
    (g,) = torch.autograd.grad((x.softmax(1) * w).sum(), x, create_graph=True)
    return (g * x).sum()


def inner_gradient_twice(x, w):
    u = torch.sigmoid(x * w)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
    return ((ddu - u) ** 2).mean()


def inner_gradient_of_writes(x, w):
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0].exp() * w[0]
    y[:, 1:] = x[:, 1:].sin()
    (g,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    return (g * x).sum()


def one_inner_step(x, w):
    fast = w
    for _ in range(2):
        loss = ((x @ fast.tanh()) ** 2).mean()
        (g,) = torch.autograd.grad(loss, fast, create_graph=True)
        fast = fast - 0.1 * g
    return ((x @ fast) ** 2).sum()


def inner_gradient_kept_constant(x, w):
    (g,) = torch.autograd.grad((x * w).exp().sum(), x, retain_graph=True)
    return (g * x).sum()


def early_return(x, w):
    if x.dim() == 2:
        return (x * w).sum().sin()
    return x.sum()


def nested_lists(x, w):
    grid = [[x[i, j] * w[j] for j in range(4)] for i in range(3)]
    return torch.stack([torch.stack(row) for row in grid]).tanh().sum()


def star_unpacking(x, w):
    first, *_, last = x
    a, b, c, d = w
    return (first * a + last * b).sum() * c + d


def enumerate_and_zip(x, w):
    return sum((row * k).sum() * v for k, (row, v) in enumerate(zip(x, w[:3], strict=True)))


def integer_index_arithmetic(x, w):
    i = (torch.arange(4) * 3 + 1) % 4
    return (x[:, i] * w[i.flip(0)]).cumsum(1).square().sum()


def gather_and_take(x, w):
    best = x.argmax(1, keepdim=True)
    return x.gather(1, best).sum() * x.take(torch.tensor([0, 5, 5])).sum() + w[best].sum()


def topk_and_sort(x, w):
    values, index = x.topk(2, 1)
    return (values * w[index]).sum() + x.sort(1).values[:, 0].prod()


def bucketed(x, w):
    bins = torch.bucketize(x.detach(), torch.tensor([-0.5, 0.5, 1.0], **Z))
    return (w[bins] * x).sum()


def segment_sums(x, w):
    sums = torch.zeros(2, 4, **Z).index_add_(0, J, x)
    count = torch.zeros(2, **Z).index_add_(0, J, torch.ones(3, **Z))
    return ((sums / count[:, None]) * w).square().sum()


def message_passing(x, w):
    source, target = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2, 0, 1])
    h = x
    for _ in range(2):
        out = torch.zeros_like(h)
        out.scatter_add_(0, target[:, None].expand(-1, 4), (h * w)[source])
        h = torch.relu(out + h)
    return h.square().sum()


def einsum(x, w):
    return torch.einsum("bi,bj,j->bi", x, x, w).tanh().sum()


def expanded_then_written(x, w):
    y = w.expand(3, 4).clone()
    y *= x
    return (y**2).sum()


def broadcast_to_a_write(x, w):
    y = torch.zeros(2, 3, 4, **Z)
    y += x
    y[1] *= w
    return y.prod(0).sum()


def casts(x, w):
    return ((x.to(torch.complex128) * (1 + 2j)).abs() * w).sum() + (x > 0).double().mul(w).sum()


def complex_parts_written(x, w):
    z = torch.zeros(3, 4, dtype=torch.complex128)
    z.real = x * w
    z.imag.copy_(x.sin())
    return (z * z).abs().sum()


def spectrum_multiplied(x, w):
    f = torch.fft.rfft(x)
    out = torch.zeros_like(f)
    out[:, :2] = f[:, :2] * torch.complex(w[:2], w[2:])
    return torch.fft.irfft(out, n=4).square().sum()


def clipped_gradient_free_norm(x, w):
    y = x * w
    return (y * (1 / y.norm().detach()).clamp(max=1.0)).exp().sum()


def weights_normalized(x, w):
    v = w / w.norm().clamp_min(1e-12)
    return (F.normalize(x, dim=1) @ v).acos().sum()


def interpolation_of_two(x, w):
    t = torch.linspace(0, 1, 3, **Z)[:, None]
    return torch.lerp(x, w.expand_as(x), t).pow(3).sum()


def gumbel_softmax(x, w):
    return (F.gumbel_softmax(x * w, hard=True) * x).sum()


def euler_steps(x, w):
    path = torch.zeros(5, 4, **Z)
    path[0] = x[0]
    for k in range(4):
        path[k + 1] = path[k] + 0.1 * torch.sin(path[k].clone() * w)
    return path[-1].sum() + path[2].prod()


WHOLE = [
    number, number_of_python, tensor_of_a_number, running_product, running_mean, loss_of_parts, recurrence,
    recurrence_in_place, cache, cache_that_grows, dynamic_program, soft_dynamic_program, matrix_filled_entry_by_entry,
    diagonal_matrix, skew_matrix, read_before_and_after, view_made_before_the_write, view_written_base_read,
    two_views_of_one, padded, shifted, rotary, causal_mask, positional_table, no_grad_in_the_middle,
    enable_grad_inside_no_grad, set_grad_enabled_as_a_call, decorated_without_gradients, straight_through,
    stop_gradient_by_data, detached_then_written, out_argument, dropout_twice, noise, noise_in_place,
    inner_gradient_tanh, inner_gradient_softmax, inner_gradient_twice, inner_gradient_of_writes, one_inner_step,
    inner_gradient_kept_constant, early_return, nested_lists, star_unpacking, enumerate_and_zip,
    integer_index_arithmetic, gather_and_take, topk_and_sort, bucketed, segment_sums, message_passing, einsum,
    expanded_then_written, broadcast_to_a_write, casts, complex_parts_written,
    clipped_gradient_free_norm, weights_normalized, interpolation_of_two, gumbel_softmax, euler_steps,
]  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize("f", WHOLE, ids=lambda f: f.__name__)
def test_programs(f):
    check_function(f, [X, W])


@pytest.mark.parametrize("f", WHOLE, ids=lambda f: f.__name__)
def test_programs_as_training_steps(f):
    check_step(Holds(f, [X, W]), torch.tensor(0.5, **Z))


def test_a_spectrum_written_to():
    """Its second derivative is refused: PyTorch has no derivative of ``slice_scatter`` for complex numbers, which a
    transform within a transform runs."""
    check_function(spectrum_multiplied, [X, W], ways=("grad", "vjp"))

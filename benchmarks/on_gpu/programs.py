"""Programs as people write them: loss = f(x, y) with two matrices. Each is run through ``torch.autograd`` and ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
Program = Callable[[Tensor, Tensor], Tensor]

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


@program
def columns_of_zeros_like(x: Tensor, y: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        out[:, t] = x[:, t].sin() * y[:, t]
    return (out**2).sum()


@program
def a_sum_in_a_loop(x: Tensor, y: Tensor) -> Tensor:
    loss = torch.zeros((), device=x.device, dtype=x.dtype)
    for t in range(x.shape[1]):
        loss += (x[:, t] * y[:, t]).tanh().sum()
    return loss


@program
def a_counter_on_the_cpu(x: Tensor, y: Tensor) -> Tensor:
    """A number on the CPU beside tensors that lie elsewhere."""
    scale = torch.tensor(2.0)
    return (x * scale).sin().sum() + torch.where(y > 0, y, torch.tensor(0.0)).sum()


@program
def constants_made_inside(x: Tensor, y: Tensor) -> Tensor:
    weights = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    table = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=x.device, dtype=x.dtype)
    return (x * weights + y * table).sigmoid().sum()


@program
def a_mask_and_an_index(x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:] = y
    out[x > 0] = 0.5
    out[:, torch.tensor([0, 2], device=x.device)] += x[:, :2].cos()
    return out.pow(2).sum()


@program
def scattered(x: Tensor, y: Tensor) -> Tensor:
    rows = torch.arange(x.shape[0], device=x.device) % 2
    sums = torch.zeros(2, x.shape[1], device=x.device, dtype=x.dtype).index_add_(0, rows, x)
    return (sums.scatter_add(0, rows[:2, None].expand(2, x.shape[1]), y[:2]) ** 3).sum()


@program
def views_of_views(x: Tensor, y: Tensor) -> Tensor:
    out = x.clone()
    out[1:].t()[0].mul_(y[1:, 0])
    out.view(-1)[::2].add_(1)
    return out.exp().sum()


@program
def a_cache(x: Tensor, y: Tensor) -> Tensor:
    cache = x.new_zeros(3, *x.shape)
    cache[0].copy_(x)
    for k in range(1, 3):
        cache[k] = (cache[k - 1].clone() @ y.t() @ y).tanh()
    return cache.sum(0).square().mean()


@program
def no_gradient_in_the_middle(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.norm()
    return (x / scale + y.detach() * x).sin().sum()


@program
def a_gradient_inside(x: Tensor, y: Tensor) -> Tensor:
    z = x.detach().clone().requires_grad_() if not x.requires_grad else x
    (g,) = torch.autograd.grad((z * y).tanh().sum(), z, create_graph=True)
    return (g * x).pow(2).sum()


@program
def softmax_and_friends(x: Tensor, y: Tensor) -> Tensor:
    return (x.softmax(1) * y.log_softmax(0)).sum() + torch.logsumexp(x, 1).sum() + (x + y).norm()


@program
def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    labels = torch.arange(x.shape[0], device=x.device) % x.shape[1]
    return F.cross_entropy(x * y, labels, label_smoothing=0.1)


@program
def attention_by_hand(x: Tensor, y: Tensor) -> Tensor:
    scores = (x @ y.t()).masked_fill(torch.ones(len(x), len(x), device=x.device).tril() == 0, float("-inf"))
    return (scores.softmax(-1) @ y).square().sum()


@program
def einsum_and_gather(x: Tensor, y: Tensor) -> Tensor:
    outer = torch.einsum("ij,ik->ijk", x, y)
    places = torch.zeros(*outer.shape[:2], 1, dtype=torch.long, device=x.device)
    return outer.gather(2, places).sin().sum() + torch.cumsum(x, 1).prod(1).sum()


@program
def linear_algebra(x: Tensor, y: Tensor) -> Tensor:
    spd = x.t() @ x + torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    return torch.linalg.cholesky(spd).sum() + torch.linalg.solve(spd, y.t()).square().sum() + torch.logdet(spd)


@program
def sorted_and_clamped(x: Tensor, y: Tensor) -> Tensor:
    return (x.sort(1).values * y.topk(x.shape[1], 1).values).clamp(-0.4, 0.9).sum() + torch.maximum(x, y).sum()


@program
def convolution_and_pooling(x: Tensor, y: Tensor) -> Tensor:
    image = F.conv2d((x.t() @ x)[None, None], y[:3, :3][None, None], padding=1)
    return F.max_pool2d(F.gelu(image), 2).sum() + F.interpolate(image, scale_factor=2, mode="bilinear").square().mean()


@program
def normalizations(x: Tensor, y: Tensor) -> Tensor:
    z = F.layer_norm(x, x.shape[1:], y[0], y[1]) + F.batch_norm(x, None, None, y[2], y[3], training=True)
    return z.sin().sum() + F.normalize(x, dim=1).mul(y).sum() + F.rms_norm(x, x.shape[1:], y[0]).cos().sum()


@program
def complex_numbers(x: Tensor, y: Tensor) -> Tensor:
    return torch.fft.fft(torch.complex(x, y), dim=1).abs().pow(2).sum() + torch.fft.rfft(x).angle().sin().sum()


@program
def checkpointed(x: Tensor, y: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda a, b: (a @ b.t()).tanh(), x, y, use_reentrant=False).pow(2).sum()

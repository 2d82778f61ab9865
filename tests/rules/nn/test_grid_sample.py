"""grid_sample against torch.autograd, and its written-out backward against PyTorch's kernel."""

from itertools import product

import pytest
import torch
from nn_witness import check, check_second
from torch.nn import functional as F

import memograd as mg
from memograd.rules.nn.grid_sample import grid_sampler_backward

aten = torch.ops.aten
MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
PLANE = list(product((2,), MODES, PADDINGS, (True, False)))
SPACE = [case for case in product((3,), MODES, PADDINGS, (True, False)) if case[1] != "bicubic"]


def image_and_grid(dims):
    """Points inside, outside, and exactly on corners, borders and centres of pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, *(4, 5, 3)[:dims], dtype=torch.float64, generator=generator)
    grid = torch.randn(2, *(3, 2, 2)[:dims], dims, dtype=torch.float64, generator=generator) * 1.7
    grid[0, 0] = torch.randint(-2, 3, grid[0, 0].shape, generator=generator)
    return image, grid


@pytest.mark.parametrize(("dims", "mode", "padding", "align"), PLANE + SPACE)
def test_backward_written_out(dims, mode, padding, align):
    image, grid = image_and_grid(dims)
    g = torch.randn(2, 2, *grid.shape[1:-1], dtype=torch.float64)
    how = (MODES[mode], PADDINGS[padding], align, [True, True])
    kernel = getattr(aten, f"grid_sampler_{dims}d_backward")
    torch.testing.assert_close(grid_sampler_backward(g, image, grid, *how), tuple(kernel(g, image, grid, *how)))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("dims", "mode", "padding", "align"), PLANE + SPACE)
def test_both_orders(dims, mode, padding, align):
    def sample(image, grid):
        return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=align)

    image, grid = image_and_grid(dims)
    check(sample, image, grid)
    try:
        check_second(sample, image, grid, tolerance=1e-9)
    except RuntimeError as error:  # PyTorch 2.11
        if "grid_sampler_" not in str(error) or "backward is not implemented" not in str(error):
            raise
        second_by_differences(sample, image, torch.where(grid == grid.round(), grid + 0.07, grid))  # off the kinks


def second_by_differences(sample, image, grid):
    """Along one direction: differences of autograd's first gradients, whose kernel it cannot differentiate."""
    seed, a, b = (torch.randn_like(t) for t in (sample(image, grid), image, grid))
    ways = [torch.randn_like(t) for t in (image, grid)]

    def form(gradient, image, grid):
        first = gradient(lambda image, grid: (sample(image, grid) * seed).sum())(image, grid)
        return (first[0] * a).sum() + (first[1] * b).sum()

    ours = mg.grad(lambda image, grid: form(lambda f: mg.grad(f, argnums=(0, 1)), image, grid), argnums=(0, 1))
    found = sum((g * way).sum() for g, way in zip(ours(image, grid), ways, strict=True))
    ahead, behind = (
        form(
            lambda f: torch.func.grad(f, argnums=(0, 1)),
            *(t + s * way for t, way in zip((image, grid), ways, strict=True)),
        )
        for s in (1e-6, -1e-6)
    )
    torch.testing.assert_close(found, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_points_that_are_no_numbers():
    """They lie outside: nothing is looked up at a meaningless index."""
    image, grid = image_and_grid(2)
    grid[0, 0, 0] = float("nan")
    g = torch.randn(2, 2, *grid.shape[1:-1], dtype=torch.float64)
    kernel = aten.grid_sampler_2d_backward(g, image, grid, 0, 0, False, [True, True])
    torch.testing.assert_close(grid_sampler_backward(g, image, grid, 0, 0, False, [True, True])[0], kernel[0])

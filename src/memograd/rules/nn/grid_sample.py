"""Sampling an image at the points of a grid (``grid_sample``), in two and three dimensions.

A sample is a weighted sum of *taps*, the pixels around the point:

    y[n, c, p] = Σ_taps  w(p) x[n, c, tap(p)]        w(p) = Π_axes w_axis(p)

with one tap on each axis for ``nearest``, two for ``bilinear`` and four for ``bicubic``. The backward kernels compute

    x̄ = Σ_p w(p) ȳ[p], sent to the taps        grid̄ = Σ_taps ⟨ȳ, x[tap]⟩ ∂w/∂grid

and are written out here by these formulas, in operators that can be differentiated again: the weights are polynomials
in the distance to the pixel. Rounding down to the pixel and the choice of a reflection are constant in pieces.
"""

from __future__ import annotations

from functools import reduce
from itertools import product
from operator import mul
from typing import NamedTuple

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten
BILINEAR, NEAREST, BICUBIC = 0, 1, 2  # torch.nn.functional's codes
ZEROS, BORDER, REFLECTION = 0, 1, 2
A = -0.75  # PyTorch's choice of the cubic convolution


@rule(aten.grid_sampler_2d.default, formula="x̄: ȳ spread by the interpolation weights; grid̄: ȳ · slope of x there")
def grid_sampler_2d(adjoint, y, x, grid, interpolation_mode, padding_mode, align_corners):
    return aten.grid_sampler_2d_backward(
        adjoint, x, grid, interpolation_mode, padding_mode, align_corners, [True, True]
    )


@rule(aten.grid_sampler_3d.default, formula="x̄: ȳ spread by the interpolation weights; grid̄: ȳ · slope of x there")
def grid_sampler_3d(adjoint, y, x, grid, interpolation_mode, padding_mode, align_corners):
    return aten.grid_sampler_3d_backward(
        adjoint, x, grid, interpolation_mode, padding_mode, align_corners, [True, True]
    )


@rule(aten.cudnn_grid_sampler.default, formula="x̄: ȳ spread by the interpolation weights; grid̄: ȳ · slope of x there")
def cudnn_grid_sampler(adjoint, y, x, grid):
    return aten.cudnn_grid_sampler_backward(x, grid, adjoint)


@expand(
    aten.grid_sampler_2d_backward.default,
    aten.grid_sampler_3d_backward.default,
    formula="x̄ = Σ w g sent to the taps, grid̄ = Σ ⟨g, x[tap]⟩ ∂w/∂grid",
)
def grid_sampler_backward(g, x, grid, interpolation_mode, padding_mode, align_corners, output_mask):
    sizes = x.shape[2:]
    axes = [
        _taps(grid[..., -1 - k], size, interpolation_mode, padding_mode, align_corners) for k, size in enumerate(sizes)
    ]
    rows, pixels = g.flatten(2), x.flatten(2)  # [batch, channel, point] and [batch, channel, pixel]
    x_bar = torch.zeros_like(pixels)
    slopes = [torch.zeros_like(rows[:, 0]) for _ in sizes]
    for taps in product(*axes):
        place, weight = _place([t.index for t in taps], sizes), _product([t.weight for t in taps])
        index = place.flatten(1).unsqueeze(1).expand(rows.shape)
        x_bar = x_bar.scatter_add(2, index, rows * weight.flatten(1).unsqueeze(1))
        share = (rows * pixels.gather(2, index)).sum(1)
        for k, tap in enumerate(taps):
            slope = _product([tap.slope, *(t.weight for j, t in enumerate(taps) if j != k)])
            slopes[k] = slopes[k] + share * slope.flatten(1)
    grid_bar = torch.stack([s.reshape(grid.shape[:-1]) for s in reversed(slopes)], -1)
    return x_bar.reshape(x.shape), grid_bar


@expand(aten.cudnn_grid_sampler_backward.default, formula="grid_sampler_2d_backward: bilinear, zeros, aligned corners")
def cudnn_grid_sampler_backward(x, grid, g):
    return grid_sampler_backward(g, x, grid, BILINEAR, ZEROS, True, [True, True])


class _Tap(NamedTuple):
    """A pixel on one axis, for every point of the grid: its index, its weight, and ∂weight/∂grid."""

    index: torch.Tensor
    weight: torch.Tensor
    slope: torch.Tensor


def _taps(coordinate, size, mode, padding, align):
    """The taps on one axis for points at ``coordinate``, which runs from -1 to 1 along it."""
    stretch = (size - 1) / 2 if align else size / 2
    at = (coordinate + 1) * stretch - (0 if align else 0.5)
    if mode == BICUBIC:  # the pixels beyond the image are padded, not the point
        low = at.floor()
        around = [(_padded(low + k, size, padding, align)[0], *_cubic(at - low, k)) for k in (-1, 0, 1, 2)]
        return [_tap(pixel, weight, slope * stretch, size) for pixel, weight, slope in around]
    at, turn = _padded(at, size, padding, align)
    if mode == NEAREST:
        return [_tap(at.round(), torch.ones_like(at), torch.zeros_like(at), size)]
    low, slope = at.floor(), turn * stretch
    return [_tap(low, 1 - (at - low), -slope, size), _tap(low + 1, at - low, slope, size)]


def _tap(pixel, weight, slope, size):
    """Beyond the image there is nothing: weight 0, at any index."""
    inside = (pixel >= 0) & (pixel <= size - 1)
    return _Tap(pixel.where(inside, 0).to(torch.long), weight.where(inside, 0), slope.where(inside, 0))


def _padded(at, size, padding, align):
    """``at`` brought back into the image, and the slope of that: 1, -1 or 0 (at the border too, as in the kernels)."""
    turn = torch.ones_like(at)
    if padding == ZEROS:
        return at, turn
    if padding == REFLECTION:
        at, turn = _reflected(at, 0.0 if align else -0.5, size - 1 if align else size)
    inside = (at > 0) & (at < size - 1)
    border = torch.zeros_like(at).masked_fill(at > 0, size - 1)
    return torch.where(inside, at, border), turn.where(inside, 0)


def _reflected(at, low, span):
    """``at`` folded into [low, low + span], and the direction in which it then runs."""
    if span == 0:
        return torch.zeros_like(at), torch.zeros_like(at)
    direction = torch.ones_like(at).where(at >= low, -1)
    distance = direction * (at - low)
    flips = (distance / span).floor()
    rest = distance - flips * span
    even = flips.remainder(2) == 0
    return torch.where(even, rest, span - rest) + low, torch.where(even, direction, -direction)


def _cubic(part, k):
    """Weight of the k-th pixel after the one at or below the point, and its slope; ``part``: from that to the point."""
    distance, direction = (part - k, 1) if k <= 0 else (k - part, -1)
    if k in (0, 1):
        weight = ((A + 2) * distance - (A + 3)) * distance * distance + 1
        return weight, direction * (3 * (A + 2) * distance - 2 * (A + 3)) * distance
    weight = ((A * distance - 5 * A) * distance + 8 * A) * distance - 4 * A
    return weight, direction * ((3 * A * distance - 10 * A) * distance + 8 * A)


def _place(indices, sizes):
    """Position in the flattened image."""
    place = indices[0]
    for index, size in zip(indices[1:], sizes[1:], strict=True):
        place = place * size + index
    return place


def _product(factors):
    return reduce(mul, factors)

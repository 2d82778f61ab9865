"""scatter_reduce and index_reduce: sums, means, products and extrema of what is sent to the same place.

Both are written once, by two functions: ``take(t)`` reads ``t`` where each source element went, ``add(t, s)`` adds
``s`` there.
"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.scatter_reduce.two, formula="each element its share of ȳ: 1, 1/n, y / element, or 1/#extremal")
def scatter_reduce(adjoint, y, x, dim, index, source, reduce, include_self=True):
    to_x, to_source = _reduced(
        adjoint, y, x, source, reduce, include_self,
        take=lambda t: t.gather(dim, index),
        add=lambda t, s: t.scatter_add(dim, index, s),
        forward=lambda t, s: aten.scatter_reduce(t, dim, index, s, reduce, include_self=include_self),
    )  # fmt: skip
    return to_x if include_self else to_x.scatter(dim, index, 0), None, None, to_source


@rule(aten.index_reduce.default, formula="each element its share of ȳ: 1/n, y / element, or 1/#extremal")
def index_reduce(adjoint, y, x, dim, index, source, reduce, include_self=True):
    to_x, to_source = _reduced(
        adjoint, y, x, source, reduce, include_self,
        take=lambda t: t.index_select(dim, index),
        add=lambda t, s: t.index_add(dim, index, s),
        forward=lambda t, s: aten.index_reduce(t, dim, index, s, reduce, include_self=include_self),
    )  # fmt: skip
    return to_x if include_self else to_x.index_fill(dim, index, 0), None, None, to_source


def _reduced(adjoint, y, x, source, reduce, include_self, take, add, forward):
    """(x̄, source̅), x̄ not yet cleared where x is left out."""
    if reduce == "sum":
        return adjoint, take(adjoint)
    if reduce == "mean":
        own = torch.ones_like(adjoint) if include_self else torch.zeros_like(adjoint)
        number = add(own, torch.ones_like(source))
        number = number.masked_fill(number == 0, 1)
        return adjoint / number, take(adjoint / number)
    if reduce == "prod":
        return _product(adjoint, y, x, source, take, add, forward)
    attains, source_attains = x == y, source == take(y)  # amax, amin
    share = adjoint / add(attains.to(x.dtype), source_attains.to(x.dtype))
    return attains * share, source_attains * take(share)


def _product(adjoint, y, x, source, take, add, forward):
    """Others' product: y / element; for a zero, the product made again with a one in its place."""
    without_zeros = x.masked_fill(x == 0, 1)
    to_x = adjoint * forward(without_zeros, source) / without_zeros
    is_zero = source == 0
    lone = is_zero & (take(add(torch.zeros_like(x), is_zero.to(x.dtype))) == 1)
    others = take(adjoint * forward(x, source.masked_fill(lone, 1)))
    return to_x, torch.where(lone, others, take(adjoint * y) / source.masked_fill(is_zero, 1))

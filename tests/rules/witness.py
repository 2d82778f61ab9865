"""PyTorch's autograd as witness: our gradients of a function against its, first and second order."""

import torch
from torch.utils import _pytree as pytree

import memograd as mg


def check(f, *tensors, second=True, nan=False, rtol=1e-10, atol=1e-12):
    """Compare the gradients of the sum of ``f``'s results, each weighted at random, in every smooth tensor.

    Args:
        second: also compare the gradients of the weighted sum of those gradients.
        nan: PyTorch's own are NaN at some elements; ours have to be so at the same ones.
    """
    generator = torch.Generator().manual_seed(0)
    loss = weighted(f, tensors, generator)
    names = [f"arg{i}" for i, t in enumerate(tensors) if smooth(t)]
    live = [t.detach().clone().requires_grad_() if smooth(t) else t for t in tensors]
    leaves = [t for t in live if smooth(t)]
    expected = torch.autograd.grad(loss(*live), leaves, create_graph=True, allow_unused=True)
    joint = mg.differentiate(mg.capture(loss, *tensors), wrt=names)
    found = joint(*tensors)[1]
    compare([found[n] for n in names], expected, names, rtol, atol, nan)
    if not second or not any(g is not None and g.requires_grad for g in expected):
        return
    weights = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in leaves]
    expected_second = torch.autograd.grad(total(expected, weights), leaves, allow_unused=True)

    def again(*inputs):
        flat = joint.function(*joint.bind(inputs, {}))
        found = {o.name: v for o, v in zip(joint.outputs, flat, strict=True) if o.kind == "gradient"}
        return total([found.get(n) for n in names], weights)

    twice = mg.differentiate(mg.capture(again, *tensors), wrt=names)
    found = twice(*tensors)[1]
    compare([found[n] for n in names], expected_second, names, rtol * 100, atol * 100, nan)


def smooth(t):
    return t.is_floating_point() or t.is_complex()


def weighted(f, tensors, generator):
    """A real number from the results of ``f``."""
    results = [r for r in pytree.tree_leaves(f(*tensors)) if isinstance(r, torch.Tensor) and smooth(r)]
    weights = [torch.randn(r.shape, dtype=r.dtype, generator=generator) for r in results]

    def loss(*inputs):
        found = [r for r in pytree.tree_leaves(f(*inputs)) if isinstance(r, torch.Tensor) and smooth(r)]
        return total(found, weights)

    return loss


def total(values, weights):
    parts = [(v * w).sum() for v, w in zip(values, weights, strict=True) if v is not None]
    parts = [p.real if p.is_complex() else p for p in parts]
    return sum(parts[1:], parts[0])


def compare(ours, theirs, names, rtol, atol, nan=False):
    """Equal values, NaN on neither side unless ``nan``; a gradient that one side leaves out is zero on the other."""
    assert len(ours) == len(theirs)
    assert any(g is not None for g in (*ours, *theirs)), "neither side has a gradient: nothing is compared"
    for name, a, b in zip(names, ours, theirs, strict=True):
        if a is None and b is None:
            continue
        a = torch.zeros_like(b) if a is None else a
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(
            a, b.detach(), rtol=rtol, atol=atol, equal_nan=nan, msg=lambda m, n=name: f"{n}: {m}"
        )

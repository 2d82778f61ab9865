"""What many rules say of numbers: conjugates, factors, and which operands are tensors."""

import torch


def conj(x):
    """Complex conjugate, materialized; the value itself for real numbers."""
    if isinstance(x, torch.Tensor):
        return x.conj_physical() if x.is_complex() else x
    return x.conjugate()


def scaled(adjoint, factor):
    """``adjoint * conj(factor)`` for a Python number, without a multiplication by one."""
    return adjoint if factor == 1 else adjoint * conj(factor)


def is_tensor(*values):
    """True when all values are tensors: a Python number needs no adjoint."""
    return all(isinstance(v, torch.Tensor) for v in values)

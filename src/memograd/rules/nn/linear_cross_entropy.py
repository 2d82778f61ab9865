"""A linear layer and its cross entropy in one operator that never holds all logits, but chunks of them."""

from contextlib import suppress

import torch

from memograd.rules.registry import Refused, expand, rule

with suppress(ImportError):  # PyTorch 2.11 does not have it
    import torch.nn.modules.linear_cross_entropy  # enters the two operators into torch.ops.torch_nn


def linear_cross_entropy(
    adjoint,
    y,
    x,
    linear_weight,
    target,
    linear_bias,
    weight,
    reduction,
    ignore_index,
    label_smoothing,
    chunk,
    policy,
    dtype,
    retain,
    with_x,
    with_weight,
    with_bias,
):
    """The kernel computes the gradients chunk by chunk together with the loss, where it is told to."""
    if any(bar is not None for bar in adjoint[1:]):
        again = Refused("the chunked linear_cross_entropy has no second derivative; call it without options")
        return again, again, None, again
    y_bar = adjoint[0]
    absent = Refused("its gradient was not computed with the loss, because it did not require one")
    x_bar, w_bar, b_bar = (
        y_bar * gradient if given else absent
        for gradient, given in zip(y[1:], (with_x, with_weight, with_bias), strict=True)
    )
    return x_bar, w_bar, None, b_bar


def linear_cross_entropy_of_each(x, linear_weight, target, linear_bias, weight, ignore_index, chunk, policy, acc_dtype):
    """Without a reduction the gradients wait for ȳ; the logits are held meanwhile."""
    logits = torch.nn.functional.linear(x, linear_weight, linear_bias)
    return torch.nn.functional.cross_entropy(logits, target, weight, ignore_index=ignore_index, reduction="none")


_chunked = getattr(torch.ops.torch_nn, "_linear_cross_entropy_batch_chunked", None)
_of_each = getattr(torch.ops.torch_nn, "_linear_cross_entropy_batch_chunked_no_reduction", None)
if _chunked is not None:
    rule(_chunked.default, formula="each ȳ · the gradient computed with the loss")(linear_cross_entropy)
if _of_each is not None:
    expand(_of_each.default, formula="cross_entropy(x Wᵀ + b), all of it")(linear_cross_entropy_of_each)

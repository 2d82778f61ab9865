"""Loss functions.

A loss is a sum over elements, or its mean (``reduction``). Each backward kernel multiplies the adjoint into the
elementwise derivative and undoes the reduction. Where that derivative depends on x, the kernel is restated by its
formula, so that it can be differentiated again; where it does not, the kernel is linear in the adjoint alone.
"""

import torch

from memograd.rules.registry import expand, refuse, rule

aten = torch.ops.aten
NONE, MEAN, SUM = 0, 1, 2  # torch.nn.functional's reduction codes


def spread(g, x, reduction):
    """The adjoint of each element's loss, from that of the reduced loss."""
    return g / x.numel() if reduction == MEAN else g


# -- differences -------------------------------------------------------------------------------------------------------


@rule(aten.mse_loss.default, formula="x̄ = 2 ȳ (x - t), t̄ = -x̄")
def mse_loss(adjoint, y, x, target, reduction=MEAN):
    x_bar = aten.mse_loss_backward(adjoint, x, target, reduction)
    return x_bar, -x_bar


@expand(aten.mse_loss_backward.default, formula="2 g (x - t)")
def mse_loss_backward(g, x, target, reduction):
    return spread(g, x, reduction) * 2 * (x - target)


@rule(aten.smooth_l1_loss.default, formula="x̄ = ȳ (x - t)/β where |x - t| < β, else ȳ sign(x - t); t̄ = -x̄")
def smooth_l1_loss(adjoint, y, x, target, reduction=MEAN, beta=1.0):
    x_bar = aten.smooth_l1_loss_backward(adjoint, x, target, reduction, beta)
    return x_bar, -x_bar


@expand(aten.smooth_l1_loss_backward.default, formula="g (x - t)/β where |x - t| < β, else g sign(x - t)")
def smooth_l1_loss_backward(g, x, target, reduction, beta):
    d = x - target
    slope = d.sign() if beta == 0 else torch.where(d.abs() < beta, d / beta, d.sign())
    return spread(g, x, reduction) * slope


@rule(aten.huber_loss.default, formula="x̄ = ȳ (x - t) where |x - t| ≤ δ, else ȳ δ sign(x - t); t̄ = -x̄")
def huber_loss(adjoint, y, x, target, reduction=MEAN, delta=1.0):
    x_bar = aten.huber_loss_backward(adjoint, x, target, reduction, delta)
    return x_bar, -x_bar


@expand(aten.huber_loss_backward.default, formula="g (x - t) where |x - t| < δ, else g δ sign(x - t)")
def huber_loss_backward(g, x, target, reduction, delta):
    d = x - target
    return spread(g, x, reduction) * torch.where(d.abs() < delta, d, d.sign() * delta)


@rule(aten.soft_margin_loss.default, formula="x̄ = -ȳ t σ(-t x)")
def soft_margin_loss(adjoint, y, x, target, reduction=MEAN):
    return aten.soft_margin_loss_backward(adjoint, x, target, reduction)


@expand(aten.soft_margin_loss_backward.default, formula="-g t σ(-t x)")
def soft_margin_loss_backward(g, x, target, reduction):
    return -spread(g, x, reduction) * target * (-target * x).sigmoid()


# -- cross entropies ---------------------------------------------------------------------------------------------------


@rule(aten.binary_cross_entropy.default, formula="x̄ = ȳ · w (x - t) / (x (1 - x)), t̄ = ȳ · w (log(1 - x) - log x)")
def binary_cross_entropy(adjoint, y, x, target, weight=None, reduction=MEAN):
    # the logarithms are cut off at -100, as in the forward kernel
    t_bar = spread(adjoint, x, reduction) * ((-x).log1p().clamp_min(-100) - x.log().clamp_min(-100))
    if weight is not None:
        t_bar = t_bar * weight
    return aten.binary_cross_entropy_backward(adjoint, x, target, weight, reduction), t_bar


@expand(aten.binary_cross_entropy_backward.default, formula="g w (x - t) / (x (1 - x))")
def binary_cross_entropy_backward(g, x, target, weight=None, reduction=MEAN):
    x_bar = spread(g, x, reduction) * (x - target) / (x * (1 - x)).clamp_min(1e-12)
    return x_bar if weight is None else x_bar * weight


@rule(
    aten.binary_cross_entropy_with_logits.default,
    formula="x̄ = ȳ w ((1 + (p - 1) t) σ(x) - p t), t̄ = ȳ w ((p - 1) softplus(-x) - x); p: pos_weight",
)
def binary_cross_entropy_with_logits(adjoint, y, x, target, weight=None, pos_weight=None, reduction=MEAN):
    g = spread(adjoint, x, reduction)
    if weight is not None:
        g = g * weight
    if pos_weight is None:
        return g * (x.sigmoid() - target), g * -x
    excess = pos_weight - 1
    x_bar = g * ((1 + excess * target) * x.sigmoid() - pos_weight * target)
    return x_bar, g * (excess * torch.nn.functional.softplus(-x) - x)


@rule(aten.nll_loss_forward.default, formula="x̄[target] = -ȳ w[target], 0 elsewhere")
def nll_loss(adjoint, y, x, target, weight, reduction, ignore_index):
    if adjoint[0] is None:
        return None  # the total weight does not depend on x
    return aten.nll_loss_backward(adjoint[0], x, target, weight, reduction, ignore_index, y[1])


@rule(aten.nll_loss2d_forward.default, formula="x̄[target] = -ȳ w[target], 0 elsewhere")
def nll_loss2d(adjoint, y, x, target, weight, reduction, ignore_index):
    if adjoint[0] is None:
        return None
    return aten.nll_loss2d_backward(adjoint[0], x, target, weight, reduction, ignore_index, y[1])


@rule(aten.nll_loss_backward.default, formula="ḡ = nll_loss(ȳ), x̄ = 0: the loss is linear in x")
def nll_loss_backward(adjoint, y, g, x, target, weight, reduction, ignore_index, total_weight):
    linear = aten.nll_loss_forward(adjoint, target, weight, reduction, ignore_index)[0]
    return linear, torch.zeros_like(x)


@rule(aten.nll_loss2d_backward.default, formula="ḡ = nll_loss2d(ȳ), x̄ = 0: the loss is linear in x")
def nll_loss2d_backward(adjoint, y, g, x, target, weight, reduction, ignore_index, total_weight):
    linear = aten.nll_loss2d_forward(adjoint, target, weight, reduction, ignore_index)[0]
    return linear, torch.zeros_like(x)


@rule(aten._ctc_loss.default, aten._ctc_loss.Tensor, formula="x̄ = ȳ (exp(x) - p(label at t | target))")
def ctc_loss(adjoint, y, x, targets, input_lengths, target_lengths, blank=0, zero_infinity=False):
    return aten._ctc_loss_backward(
        adjoint[0], x, targets, input_lengths, target_lengths, y[0], y[1], blank, zero_infinity
    )


refuse(
    aten._ctc_loss_backward.default,
    aten._ctc_loss_backward.Tensor,
    why="the second derivative of the CTC loss is not implemented",
)


# -- margins -----------------------------------------------------------------------------------------------------------


@rule(aten.multi_margin_loss.default, formula="x̄ⱼ = ȳ w p zⱼᵖ⁻¹/C where zⱼ = m - x[t] + xⱼ > 0, x̄[t] = -Σ x̄ⱼ")
def multi_margin_loss(adjoint, y, x, target, p=1, margin=1, weight=None, reduction=MEAN):
    return aten.multi_margin_loss_backward(adjoint, x, target, p, margin, weight, reduction)


@expand(
    aten.multi_margin_loss_backward.default, formula="g w p zⱼᵖ⁻¹/C where zⱼ = m - x[t] + xⱼ > 0, minus their sum at t"
)
def multi_margin_loss_backward(g, x, target, p, margin, weight=None, reduction=MEAN):
    rows, labels = x.reshape(-1, x.shape[-1] if x.dim() else 1), target.reshape(-1, 1)
    g = g / rows.shape[0] if reduction == MEAN else g.reshape(-1, 1) if reduction == NONE else g
    at_target = torch.arange(rows.shape[1], device=x.device) == labels
    z = margin - rows.gather(1, labels) + rows
    slope = torch.where((z > 0) & ~at_target, z * 2 if p == 2 else torch.ones_like(z), torch.zeros_like(z))
    if weight is not None:
        slope = slope * weight[labels]
    slope = slope / rows.shape[1]
    slope = torch.where(at_target, -slope.sum(1, keepdim=True), slope)
    return (g * slope).reshape(x.shape)


@rule(aten.multilabel_margin_loss_forward.default, formula="x̄ = ȳ/C Σ (sign pairs inside the margin)")
def multilabel_margin_loss(adjoint, y, x, target, reduction):
    return aten.multilabel_margin_loss_backward(adjoint[0], x, target, reduction, y[1])


@rule(aten.multilabel_margin_loss_backward.default, formula="ḡ = ⟨r̄, derivative of the loss⟩; piecewise constant in x")
def multilabel_margin_loss_backward(adjoint, y, g, x, target, reduction, is_target):
    slope = aten.multilabel_margin_loss_backward(torch.ones_like(g), x, target, reduction, is_target)
    return (adjoint * slope).sum() if g.dim() == 0 else (adjoint * slope).sum(-1)

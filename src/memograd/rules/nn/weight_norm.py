"""Weight normalization: w = v g / ‖v‖, the norm taken over all dimensions but one.

ḡ = Σ w̄ v / ‖v‖        v̄ = g/‖v‖ (w̄ - v Σ w̄ v / ‖v‖²)
"""

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten

FORMULA = "ḡ = Σ w̄ v / ‖v‖, v̄ = g/‖v‖ (w̄ - v Σ w̄ v / ‖v‖²)"


@rule(aten._weight_norm_interface.default, formula=FORMULA)
def weight_norm(adjoint, y, v, g, dim=0):
    w_bar, norms_bar = adjoint
    norms = y[1]
    v_bar = g_bar = None
    if w_bar is not None:
        v_bar, g_bar = aten._weight_norm_interface_backward(w_bar.contiguous(), v, g, norms, dim)
    if norms_bar is not None:
        extra = norms_bar * v / norms
        v_bar = extra if v_bar is None else v_bar + extra
    return v_bar, g_bar


@expand(aten._weight_norm_interface_backward.default, formula=FORMULA)
def weight_norm_backward(w_bar, v, g, norms, dim):
    inner = (w_bar * v).sum([i for i in range(v.dim()) if i != dim], keepdim=True)
    return g / norms * (w_bar - v * inner / norms.pow(2)), inner / norms

"""What PyTorch's kernels refuse: operands of two dtypes, whole numbers, truth values.

Traces don't say so: the shape functions of PyTorch take all of them. C would too, and compute what PyTorch does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

# By position: operands of one dtype, which may be whole numbers.
_PRODUCTS: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default), (0, 1)),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default, aten.addmv.default), (0, 1, 2)),
}
# Operands of one floating dtype.
_FLOATING: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.gelu.default, aten.softplus.default, aten.log_sigmoid_forward.default), (0,)),
    **dict.fromkeys((aten.var.correction, aten.lerp.Scalar, aten.lerp.Tensor), (0,)),
    aten.binary_cross_entropy.default: (0, 1, 2),
    aten.binary_cross_entropy_backward.default: (0, 1, 2, 3),
    aten.binary_cross_entropy_with_logits.default: (0,),
    aten.nll_loss_forward.default: (0, 2),
    aten.nll_loss_backward.default: (0, 1, 3),
    aten._softmax.default: (0,),
    aten._log_softmax.default: (0,),
    aten.native_layer_norm.default: (0, 2, 3),
}
# Operands that are no truth values.
_NUMBERS: dict[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.relu.default, aten.abs.default, aten.argmax.default, aten.argmin.default), (0,)),
    **dict.fromkeys((aten.sub.Tensor, aten.rsub.Tensor, aten.sub.Scalar, aten.rsub.Scalar), (0, 1)),
    **dict.fromkeys((aten.addcmul.default, aten.addcdiv.default), (0, 1, 2)),
}


def refused(node: fx.Node) -> str | None:
    """Why PyTorch would not run ``node``; None where it would, as far as dtypes go."""
    target: Any = node.target
    positions = _PRODUCTS.get(target) or _FLOATING.get(target) or _NUMBERS.get(target, ())
    operands = [a for p, a in enumerate(node.args) if p in positions and isinstance(a, fx.Node)]
    dtypes = list(dict.fromkeys(a.meta["val"].dtype for a in operands))
    if target in _NUMBERS:
        fits = torch.bool not in dtypes
    else:
        fits = len(dtypes) < 2 and (target not in _FLOATING or all(d.is_floating_point for d in dtypes))
    if fits:
        return None
    module, source = node.meta.get("module"), node.meta.get("source")
    place = f"{f' in module {module!r}' if module else ''}{f' at {source}' if source else ''}"
    return f"PyTorch refuses operands of {' and '.join(map(str, dtypes))} for {target}{place}: convert them first"

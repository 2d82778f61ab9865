"""The ``_foreach`` operators: one operator on every tensor of a list, as optimizers and ``clip_grad_norm_`` use them.

Each is stated as that operator, tensor by tensor. A list argument is taken element by element, any other is shared.
"""

import torch

from memograd._torch import schema_of
from memograd.rules.registry import expand

aten = torch.ops.aten


def _extremum(extremum):
    def with_number(x, other):
        return extremum(x, other if isinstance(other, torch.Tensor) else torch.full_like(x, other))

    return with_number


# Where the operator on one tensor has another name or takes no numbers.
_ONE = {
    "norm": lambda x, order=2, dtype=None: torch.linalg.vector_norm(x, order, dtype=dtype),
    "powsum": lambda x, order=2, dtype=None: x.abs().pow(order).sum(dtype=dtype),
    "addcmul": lambda x, a, b, value=1: torch.addcmul(x, a, b, value=value),
    "addcdiv": lambda x, a, b, value=1: torch.addcdiv(x, a, b, value=value),
    "max": lambda x: x.max(),
    "maximum": _extremum(torch.maximum),
    "minimum": _extremum(torch.minimum),
}


def _enter(packet, one):
    overloads = [getattr(packet, name) for name in packet.overloads() if not name.endswith("out")]
    # addcmul and addcdiv with one tensor of all the factors: only optimizers call these
    overloads = [o for o in overloads if [a.name for a in schema_of(o).arguments][-1] != "scalars" or "List" in str(o)]

    @expand(*overloads, formula=f"{packet.__name__.removeprefix('_foreach_')} of each tensor of the list")
    def each(*args, **kwargs):
        length = next(len(a) for a in args if isinstance(a, (list, tuple)))
        rows = [[a[i] if isinstance(a, (list, tuple)) else a for a in args] for i in range(length)]
        return [one(*row, **kwargs) for row in rows]


for _name in dir(torch):
    if _name.startswith("_foreach_") and not _name.endswith("_"):
        _plain = _name.removeprefix("_foreach_")
        _enter(getattr(aten, _name), _ONE.get(_plain) or getattr(torch, _plain))

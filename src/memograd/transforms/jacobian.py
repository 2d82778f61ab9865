"""``jacrev``, the Jacobian row by row, and ``hessian``, the Jacobian of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.transforms.transform import Argnums, Transform
from memograd.transforms.vjp import Vjp


class _Jacrev(Transform):
    def __init__(self, f: Callable[..., Any], argnums: Argnums) -> None:
        super().__init__(f, argnums)
        self.pullback = Vjp(f, argnums)

    def __call__(self, *args: Any) -> Any:
        outputs, pull = self.pullback.forward(args)
        leaves, spec = pytree.tree_flatten(outputs)
        rows_of = []
        for position, leaf in enumerate(leaves):
            rows = []
            for k in range(leaf.numel()):
                seeds = [torch.zeros_like(x) for x in leaves]
                seeds[position] = _unit(leaf, k)
                rows.append(pull(pytree.tree_unflatten(seeds, spec)))
            rows_of.append(self._stack(rows, leaf, args))
        return pytree.tree_unflatten(rows_of, spec)

    def _stack(self, rows: list[Any], leaf: torch.Tensor, args: tuple[Any, ...]) -> Any:
        """Rows of the Jacobian, as ``[*leaf.shape, *argument.shape]`` for each argument."""
        chosen = tuple(args[a] for a in self.argnums_in(len(args)))
        template = chosen[0] if isinstance(self.argnums, int) else chosen
        flat = [pytree.tree_leaves(row) for row in rows]
        stacked = []
        for i, x in enumerate(pytree.tree_leaves(template)):
            shape = (*leaf.shape, *x.shape)
            stacked.append(torch.stack([r[i] for r in flat]).reshape(shape) if flat else x.new_zeros(shape))
        return pytree.tree_unflatten(stacked, pytree.tree_structure(template))


def _unit(leaf: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.arange(leaf.numel(), device=leaf.device)
    return (index == k).to(leaf.dtype).reshape(leaf.shape)


def jacrev(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The Jacobian of ``f``, row by row in reverse mode: shape ``[*output.shape, *argument.shape]``."""
    return _Jacrev(f, argnums)


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The second derivative of ``f``: the Jacobian of its Jacobian."""
    return jacrev(jacrev(f, argnums), argnums)

"""Jacobians: a linear map applied to every unit vector. ``jacrev`` pulls those of the outputs back and gets rows,
``jacfwd`` pushes those of the inputs forward and gets columns; ``hessian`` is the one of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import GraphError, OptionError
from memograd.tracing.undisturbed import ordinary_tensors
from memograd.transforms.jvp import Jvp
from memograd.transforms.surroundings import untraced
from memograd.transforms.transform import Argnums, Transform
from memograd.transforms.vjp import Vjp

Linear = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class _Jacobian(Transform):
    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool, chunk_size: int | None) -> None:
        super().__init__(f, argnums, has_aux)
        self.chunk_size = chunk_size

    @untraced
    def __call__(self, *args: Any) -> Any:
        _refuse_complex(self.api, "inputs", pytree.tree_leaves(args))
        with ordinary_tensors():
            jacobian, aux = self.at(args)
            return (jacobian, aux) if self.has_aux else jacobian

    def at(self, args: tuple[Any, ...]) -> tuple[Any, Any]:
        raise NotImplementedError


class _Jacrev(_Jacobian):
    api = "jacrev"

    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool, chunk_size: int | None) -> None:
        super().__init__(f, argnums, has_aux, chunk_size)
        self.pullback = Vjp(f, argnums, has_aux)

    def at(self, args: tuple[Any, ...]) -> tuple[Any, Any]:
        map_ = self.pullback.at(args)
        _refuse_complex(self.api, "outputs", map_.out)
        rows = applied(map_.pull, map_.out, map_.points, map_.program.batchable, self.chunk_size)
        blocks = [row.split([o.numel() for o in map_.out]) for row in rows]  # by input, by output
        of = [
            [b[k].reshape((*o.shape, *x.shape)) for b, x in zip(blocks, map_.points, strict=True)]
            for k, o in enumerate(map_.out)
        ]
        by_output = [pytree.tree_unflatten(parts, map_.spec) for parts in of]
        return pytree.tree_unflatten(by_output, map_.out_spec), map_.aux


class _Jacfwd(_Jacobian):
    api = "jacfwd"

    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool, chunk_size: int | None) -> None:
        super().__init__(f, argnums, has_aux, chunk_size)
        self.pushforward = Jvp(f, argnums, has_aux)

    def at(self, args: tuple[Any, ...]) -> tuple[Any, Any]:
        map_ = self.pushforward.at(args)
        _refuse_complex(self.api, "outputs", map_.out)
        columns = applied(map_.push, map_.points, map_.out, map_.program.batchable, self.chunk_size)
        by_output = []
        for column, o in zip(columns, map_.out, strict=True):
            blocks = column.movedim(0, -1).split([x.numel() for x in map_.points], dim=-1)
            parts = [b.reshape((*o.shape, *x.shape)) for b, x in zip(blocks, map_.points, strict=True)]
            by_output.append(pytree.tree_unflatten(parts, map_.spec))
        return pytree.tree_unflatten(by_output, map_.out_spec), map_.aux


def jacrev(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """The Jacobian of ``f`` in reverse mode, computed a row for each number of the output.

    Args:
        f: function of tensors or pytrees, of real numbers.
        argnums: with respect to which arguments; a tuple gives a tuple of Jacobians.
        has_aux: ``f`` returns a pair (outputs, aux); what comes back is ``(jacobian, aux)``.
        chunk_size: how many rows are computed at once, all by default; less needs less memory. Row by row where it is
            1, or where an operator cannot compute a batch (it has no batching rule of ``vmap``).
        _preallocate_and_copy: accepted for ``torch.func``'s sake.

    Returns:
        ``j(*args)``: for each output, nested like it, and each argument a tensor of shape
        ``[*output.shape, *argument.shape]``.

    Raises:
        OptionError: ``chunk_size`` is not a number of rows.
        GraphError: when called: an input or output is complex, or cannot be differentiated.
    """
    return _Jacrev(f, argnums, has_aux, _positive(chunk_size, "jacrev"))


def jacfwd(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """The Jacobian of ``f`` in forward mode, computed a column for each number of the input.

    Args:
        f, argnums, has_aux, chunk_size: as for ``jacrev``, with columns for rows.
        randomness: accepted for ``torch.func``'s sake. ``f`` is computed once, whatever the number of columns, so that
            all of them see the same random numbers.

    Returns:
        What ``jacrev`` returns, and with the same errors.
    """
    if randomness not in ("error", "different", "same"):
        raise OptionError(f"randomness must be 'error', 'different' or 'same', got {randomness!r}")
    return _Jacfwd(f, argnums, has_aux, _positive(chunk_size, "jacfwd"))


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The second derivative of ``f``: the Jacobian of its Jacobian, forward over reverse.

    Args:
        f: function of tensors or pytrees, of real numbers.
        argnums: with respect to which arguments, both times; a tuple gives a tuple of tuples.

    Returns:
        ``h(*args)``: a tensor of shape ``[*output.shape, *argument.shape, *argument.shape]``. Errors: those of
        ``jacrev``.
    """
    return jacfwd(jacrev(f, argnums), argnums)


def applied(
    linear: Linear, domain: Sequence[torch.Tensor], codomain: Sequence[torch.Tensor], batchable: bool, chunk: int | None
) -> list[torch.Tensor]:
    """``linear`` of every unit vector of ``domain``: for each tensor of ``codomain`` its images, stacked."""
    total = sum(x.numel() for x in domain)
    size = 1 if not batchable else chunk or max(total, 1)
    if total == 0 or not codomain:
        return [y.new_zeros(total, *y.shape) for y in codomain]
    if size == 1:
        images = [linear([u.squeeze(0) for u in units]) for units in unit_vectors(domain, 1)]
        return [torch.stack(parts) for parts in zip(*images, strict=True)]
    vmapped: Callable[..., Any] = torch.func.vmap(lambda *units: linear(list(units)))
    images = [vmapped(*units) for units in unit_vectors(domain, size)]
    return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*images, strict=True)]


def unit_vectors(domain: Sequence[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    """The unit vectors of the space that the tensors of ``domain`` are together, ``size`` at a time."""
    total = sum(x.numel() for x in domain)
    for start in range(0, total, size):
        count, before, units = min(size, total - start), 0, []
        for x in domain:
            rows = torch.arange(start - before, start - before + count, device=x.device)
            hot = rows.unsqueeze(1) == torch.arange(x.numel(), device=x.device)
            units.append(hot.to(x.dtype).reshape(count, *x.shape))
            before += x.numel()
        yield units


def _refuse_complex(api: str, what: str, leaves: Sequence[Any]) -> None:
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.is_complex():
            raise GraphError(
                f"{api}: Expected all {what} to be real but received complex tensor at flattened input idx: {i}; a "
                "Jacobian of complex numbers takes view_as_real"
            )


def _positive(chunk_size: int | None, api: str) -> int | None:
    if chunk_size is not None and chunk_size <= 0:
        raise OptionError(f"{api}: `chunk_size` should be greater than 0.")
    return chunk_size

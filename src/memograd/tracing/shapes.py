"""Shapes of results where PyTorch's own shape functions give up, or refuse what the kernels take.

A test runs PyTorch's own database in every precision: what kernels accept, a capture accepts.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import DATA_DEPENDENT, compressed_fake, shapes_of

aten = torch.ops.aten


@shapes_of(aten._ctc_loss.default, aten._ctc_loss.Tensor)
def _ctc_loss_shapes(mode: Any, func: Any, log_probs: Any, targets: Any, *rest: Any, **_: Any) -> Any:
    """Shapes of the CTC loss and of its table. PyTorch gives up on them because the lengths may be tensors; for padded
    targets there is a bound, and nothing but the kernel's own backward reads the table."""
    target_lengths = rest[1]
    if not isinstance(target_lengths, torch.Tensor):
        longest = max(target_lengths)
    elif targets.dim() == 2:
        longest = targets.shape[1]
    else:
        raise DATA_DEPENDENT[1](func)
    time, batch = log_probs.shape[:2]
    with mode:
        return log_probs.new_empty(batch), log_probs.new_empty(batch, time, 2 * longest + 1)


@shapes_of(aten._ctc_loss_backward.default, aten._ctc_loss_backward.Tensor)
def _ctc_loss_backward_shapes(mode: Any, func: Any, grad: Any, log_probs: Any, *rest: Any, **_: Any) -> Any:
    """Without a function of its own PyTorch runs the kernel, on zeros for lengths."""
    with mode:
        return log_probs.new_empty(log_probs.shape)


@shapes_of(aten.cudnn_grid_sampler.default)
def _cudnn_grid_sampler_shapes(mode: Any, func: Any, image: Any, grid: Any) -> Any:
    with mode:
        return image.new_empty(*image.shape[:2], *grid.shape[1:3])


@shapes_of(aten.cudnn_grid_sampler_backward.default)
def _cudnn_grid_sampler_backward_shapes(mode: Any, func: Any, image: Any, grid: Any, grad: Any) -> Any:
    with mode:
        return image.new_empty(image.shape), grid.new_empty(grid.shape)


def rank_decides(a: torch.Tensor, driver: str | None) -> bool:
    """Whether a least-squares solution of more rows than columns has residuals for some values of ``a`` only."""
    return driver in ("gelsd", "gelss") and a.shape[-2] > a.shape[-1]


@shapes_of(aten.linalg_lstsq.default)
def _lstsq_shapes(mode: Any, func: Any, a: Any, b: Any, rcond: Any = None, *, driver: str | None = None) -> Any:
    """Shapes of a least-squares solution. PyTorch gives up on them because some drivers look at the rank, and return no
    residuals where it is not full."""
    (rows, columns), batch = a.shape[-2:], a.shape[:-2]
    vector = b.dim() == 1 or (b.dim() + 1 == a.dim() and b.shape == a.shape[:-1])
    right = 1 if vector else b.shape[-1]
    batch = torch.broadcast_shapes(batch, b.shape[: -1 if vector else -2])
    driver = driver or ("gelsy" if a.device.type == "cpu" else "gels")
    if rank_decides(a, driver):
        raise DATA_DEPENDENT[1](func)
    with mode:
        tall = a.new_empty(*batch, right, max(rows, columns)).mT  # column by column, as LAPACK has it
        solution = tall[..., :columns, 0] if vector else tall[..., :columns, :]
        real = a.real.dtype if a.is_complex() else a.dtype
        residuals = a.new_empty((*batch, right) if rows > columns and driver != "gelsy" else (0,), dtype=real)
        rank = a.new_empty(a.shape[:-2] if driver != "gels" else (0,), dtype=torch.long)
        singular = (*a.shape[:-2], min(rows, columns)) if driver in ("gelsd", "gelss") else (0,)
        return solution, residuals, rank, a.new_empty(singular, dtype=real)


@shapes_of(aten.sparse_compressed_tensor.comp_plain_value_size)
def _compressed_shapes(
    mode: Any, func: Any, compressed: Any, plain: Any, values: Any, size: Any, *, layout: Any, **_: Any
) -> Any:
    """A sparse matrix of its rows, columns and values."""
    return compressed_fake(size, values.dtype, layout, values.device)


@shapes_of(
    *(aten.values.default, aten.crow_indices.default, aten.col_indices.default),
    *(aten.ccol_indices.default, aten.row_indices.default),
)
def _shapes_of_parts(mode: Any, func: Any, matrix: Any) -> Any:
    """How many entries a compressed matrix has, its stand-in does not know."""
    if matrix.layout is torch.sparse_coo:
        return NotImplemented
    raise DATA_DEPENDENT[1](func)


@shapes_of(aten._thnn_fused_gru_cell.default)
def _gru_cell_shapes(mode: Any, func: Any, input_gates: Any, hidden_gates: Any, hx: Any, *biases: Any) -> Any:
    """Shapes of CUDA's GRU cell: the new state, and what its backward kernel reads."""
    with mode:
        return torch.empty_like(hx), hx.new_empty(hx.shape[0], 5 * hx.shape[1])


@shapes_of(aten._thnn_fused_gru_cell_backward.default)
def _gru_cell_backward_shapes(mode: Any, func: Any, grad: Any, workspace: Any, has_bias: bool) -> Any:
    rows, columns = grad.shape
    with mode:
        gates = [grad.new_empty(rows, 3 * columns) for _ in range(2)]
        biases = [grad.new_empty(3 * columns) if has_bias else None for _ in range(2)]
        return (*gates, torch.empty_like(grad), *biases)


@shapes_of(aten._grouped_mm.default)
def _grouped_mm_shapes(
    mode: Any, func: Any, a: Any, b: Any, offs: Any = None, bias: Any = None, out_dtype: torch.dtype | None = None
) -> Any:
    """Shapes of one matrix product for each group. PyTorch's own function knows half precision (bfloat16) alone; the
    kernels know other floating-point numbers too, and begin each row at a multiple of 16 bytes."""
    for name, matrix in (("mat_a", a), ("mat_b", b)):
        if matrix.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise RuntimeError(f"Expected {name} to be Float32, BFloat16 or Float16 matrix, got {matrix.dtype}")
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError("contraction dimension of mat_a and mat_b must match")
    flat = a.dim() == 2, b.dim() == 2
    if any(flat) != (offs is not None):
        raise RuntimeError("Have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d")
    groups = {len(m) for m in (a, b) if m.dim() == 3} | ({len(offs)} if offs is not None else set())
    if len(groups) != 1:
        raise RuntimeError("matrix batch sizes have to match")
    rows, columns, dtype = a.shape[-2], b.shape[-1], out_dtype or a.dtype
    step = 16 // dtype.itemsize
    width = columns if torch.version.hip else -(-columns // step) * step
    batched = flat[0] == flat[1]  # a matrix for each group; else rows or columns of one belong to the groups
    shape = (*groups, rows, columns) if batched else (rows, columns)
    strides = (rows * width, width, 1) if batched else (width, 1)
    with mode:
        return torch.empty_strided(shape, strides, dtype=dtype, device=a.device)

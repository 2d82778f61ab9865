"""Products of matrices as C: tiles of eight rows by two vectors, which stay in registers while a sum runs.

    o[i, j] = Σ_p a[i, p] b[p, j]

A panel of 256 rows of ``b``, two vectors wide, is copied next to each other first, so that transposed operands cost no
more than that copy. Sums are carried in the dtype of the operands with fused multiply-adds, in blocks of 256, as BLAS
carries them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memograd.run.native.values import C_TYPES, View

VECTOR = 64  # bytes: what one register holds where registers are largest; compilers split it elsewhere
DEPTH = 256  # rows of a panel: with two vectors in a row it fits the first cache
HEIGHTS = (8, 4, 2, 1)  # rows of a tile; the smaller ones for what is left over

_FUSED = """
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif
"""
_UNFUSED = """
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC pop_options
#endif
"""


def name(dtype: torch.dtype) -> str:
    """The C function that multiplies matrices of ``dtype``."""
    return f"memograd_product_{C_TYPES[dtype]}"


@dataclass(frozen=True)
class Matrix:
    """Where a matrix begins, in C, and how far its rows and columns lie apart."""

    begin: str
    rows: int
    columns: int
    strides: tuple[int, int]

    def t(self) -> Matrix:
        return Matrix(self.begin, self.columns, self.rows, (self.strides[1], self.strides[0]))


def matrix(x: View) -> Matrix:
    """``x``, or number ``p`` of a batch of matrices."""
    batch = f" + p*{x.strides[0]}L" if len(x.shape) == 3 else ""
    return Matrix(f"{x.buffer.name} + {x.offset}L{batch}", x.shape[-2], x.shape[-1], (x.strides[-2], x.strides[-1]))


def call(a: Matrix, b: Matrix, out: str, dtype: torch.dtype, add: str = "0") -> str:
    """C: the contiguous matrix that begins at ``out`` = ``a`` ``b``; where ``add``, plus what it was."""
    sizes = [f"{s}L" for s in (a.rows, b.columns, a.columns)]
    operands = [str(part) for x in (a, b) for part in (x.begin, *(f"{s}L" for s in x.strides))]
    return f"{name(dtype)}({', '.join([*sizes, *operands, out, add])});"


def helper(dtype: torch.dtype) -> str:
    """C: the function ``name(dtype)`` and its tiles."""
    tiles = "\n".join(_tile(rows, C_TYPES[dtype], dtype.itemsize) for rows in HEIGHTS)
    return "\n".join([_FUSED, tiles, _UNFUSED, _panels(C_TYPES[dtype], dtype)])


def _tile(rows: int, c: str, size: int) -> str:
    """``rows`` rows of a result, as wide as a panel; ``cols`` of its columns are written, or added to what is there."""
    lanes, every = VECTOR // size, range(rows)
    lines = [
        f"static __attribute__((noinline)) void tile_{c}_{rows}(long k, const {c} *a, long ar, long ac, const {c} *b, "
        f"{c} *o, long ldo, int add, int cols) {{",
        f"typedef {c} vec __attribute__((vector_size({VECTOR}), aligned({size}), may_alias));",
        *(f"const {c} *a{r} = a + {r} * ar; vec s{r} = {{0}}, t{r} = {{0}};" for r in every),
        "for (long p = 0; p < k; ++p) {",
        f"    const vec *right = (const vec *)(b + p * {2 * lanes});",
        "    const vec u = right[0], v = right[1];",
        *(f"    s{r} += a{r}[p * ac] * u; t{r} += a{r}[p * ac] * v;" for r in every),
        "}",
        f"if (cols == {2 * lanes}) {{",
        "    vec *at;",
        *(
            f"    at = (vec *)(o + {r} * ldo); if (add) {{ s{r} += at[0]; t{r} += at[1]; }} at[0] = s{r}; at[1] = t{r};"
            for r in every
        ),
        "    return;",
        "}",
        f"vec edge[{rows}][2];",
        *(f"edge[{r}][0] = s{r}; edge[{r}][1] = t{r};" for r in every),
        f"for (int r = 0; r < {rows}; ++r) for (int j = 0; j < cols; ++j)",
        f"    o[r * ldo + j] = ((const {c} *)edge[r])[j] + (add ? o[r * ldo + j] : 0);",
        "}",
    ]
    return "\n".join(lines)


def _panels(c: str, dtype: torch.dtype) -> str:
    """The walk over panels: each is copied once and meets all rows of ``a``."""
    width = 2 * VECTOR // dtype.itemsize
    arguments = "(depth, left + i * ar, ar, ac, panel, o + i * n + j0, n, add || p0 > 0, cols)"
    first, *others = HEIGHTS
    return f"""
static __attribute__((noinline)) void {name(dtype)}(long m, long n, long k, const {c} *a, long ar, long ac,
    const {c} *b, long br, long bc, {c} *restrict o, int add) {{
    {c} panel[{DEPTH * width}] __attribute__((aligned({VECTOR})));
    for (long p0 = 0; p0 < k; p0 += {DEPTH}) for (long j0 = 0; j0 < n; j0 += {width}) {{
        const long depth = k - p0 < {DEPTH} ? k - p0 : {DEPTH};
        const int cols = n - j0 < {width} ? n - j0 : {width};
        const {c} *left = a + p0 * ac, *from = b + p0 * br + j0 * bc;
        if (cols < {width}) __builtin_memset(panel, 0, depth * {width} * sizeof({c}));
        if (bc == 1 && cols == {width})
            for (long p = 0; p < depth; ++p)
                __builtin_memcpy(panel + p * {width}, from + p * br, {width} * sizeof({c}));
        else
            for (int j = 0; j < cols; ++j)
                for (long p = 0; p < depth; ++p) panel[p * {width} + j] = from[p * br + j * bc];
        long i = 0;
        for (; i + {first} <= m; i += {first}) tile_{c}_{first}{arguments};
        {" ".join(f"if (m - i >= {h}) {{ tile_{c}_{h}{arguments}; i += {h}; }}" for h in others)}
    }}
}}"""

"""Random programs for the property tests: one operator family after the other, on tensors of every memory layout.

A program is drawn as source text, so a failing example prints as Python that can be pasted and run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

SIZES = st.sampled_from([2, 3, 4, 3, 2, 1, 0])  # what is empty or single shows few mistakes
SHAPES = st.lists(SIZES, max_size=3)
DTYPES = st.sampled_from([torch.float64, torch.complex128, torch.float32])
LAYOUTS = st.sampled_from(["contiguous", "transposed", "stepped", "offset", "expanded"])


@dataclass
class Program:
    """``lines`` compute ``y`` from ``x`` and ``others``; ``y`` is the value so far."""

    inputs: list[torch.Tensor]
    y: torch.Tensor
    lines: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        names = ", ".join(f"x{k}" for k in range(len(self.inputs)))
        body = "\n".join(f"    y = {line}" for line in ["x0", *self.lines])
        return f"def f({names}):\n{body}\n    return y\n"

    def function(self) -> Any:
        scope: dict[str, Any] = {"torch": torch}
        exec(self.source, scope)
        return scope["f"]

    def operand(self, draw: Any, shape: list[int]) -> str:
        self.inputs.append(draw(tensors(st.just(shape), DTYPES)))
        return f"x{len(self.inputs) - 1}"

    def append(self, line: str) -> None:
        """Run one more line; what PyTorch itself refuses is no program."""
        self.lines.append(line)
        try:
            self.y = self.function()(*self.inputs)
        except (RuntimeError, IndexError, ValueError):
            assume(False)
        assume(not self.y.isnan().any())  # nothing is differentiable there

    def __repr__(self) -> str:
        shown = ", ".join(f"{t.dtype}{tuple(t.shape)} strides {t.stride()}" for t in self.inputs)
        return f"{self.source}# {shown}"


@st.composite
def tensors(draw: Any, shapes: Any = SHAPES, dtypes: Any = DTYPES) -> torch.Tensor:
    """Normal numbers in a drawn shape, dtype and layout; sometimes whole numbers, for zeros and ties."""
    shape, dtype, layout = draw(shapes), draw(dtypes), draw(LAYOUTS)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    whole = draw(st.integers(0, 3)) == 3

    def numbers(*size: int) -> torch.Tensor:
        t = torch.randn(size, dtype=dtype, generator=generator)
        if not whole:
            return t
        return torch.complex(t.real.round(), t.imag.round()) if t.is_complex() else t.round()

    if layout == "transposed":
        return numbers(*reversed(shape)).permute(list(reversed(range(len(shape)))))
    if layout == "stepped":
        return numbers(*[2 * n for n in shape])[tuple(slice(1, None, 2) for _ in shape)]
    if layout == "offset":
        return numbers(math.prod(shape) + 3)[3:].view(shape)
    if layout == "expanded" and shape:
        return numbers(*shape[:-1], 1).expand(shape)
    return numbers(*shape)


def elementwise(draw: Any, p: Program) -> str:
    names = ["sin", "tanh", "square", "abs", "sigmoid", "neg", "atan", "sgn", "exp", "relu", "reciprocal", "log1p"]
    name = draw(st.sampled_from(names))
    # the zero that autograd passes back from sgn alone hides what is nan before it; ours does not
    return "torch.sgn(y) + y" if name == "sgn" else f"torch.{name}(y)"


def binary(draw: Any, p: Program) -> str:
    names = ["add", "mul", "div", "sub", "maximum", "fmin", "atan2", "hypot", "pow", "where", "copysign", "lerp"]
    name = draw(st.sampled_from(names))
    shape = [draw(st.sampled_from([n, 1])) for n in p.y.shape][draw(st.integers(0, p.y.dim())) :]
    z = p.operand(draw, shape)
    if name == "where":
        return f"torch.where(y.real > 0, y, {z})"
    return f"torch.lerp(y, {z}, 0.3)" if name == "lerp" else f"torch.{name}(y, {z})"


def number(draw: Any, p: Program) -> str:
    forms = ["2 - y", "y / 3", "1.5 * y", "y ** 2", "y ** 3", "y ** 0", "1 / (y * y + 2)", "y + 1j", "2j * y", "y % 1"]
    return draw(st.sampled_from(forms))


def reduction(draw: Any, p: Program) -> str:
    name = draw(st.sampled_from(["sum", "mean", "amax", "var", "logsumexp", "linalg.vector_norm", "std", "amin"]))
    dims = draw(st.lists(some_dim(p.y), max_size=2, unique_by=lambda d: d % max(p.y.dim(), 1)))
    orders = ["2", "1", "3", *(["torch.inf"] if p.y.numel() else [])]  # PyTorch's shape function refuses the last
    order = "ord=" + draw(st.sampled_from(orders)) + ", " if "norm" in name else ""
    return f"torch.{name}(y, {order}dim={tuple(dims)}, keepdim={draw(st.booleans())})"


def along(draw: Any, p: Program) -> str:
    d = draw(some_dim(p.y))
    forms = ["cumsum(y, {})", "logcumsumexp(y, {})", "cumprod(y, {})", "prod(y, {})", "softmax(y, {})"]
    forms += ["flip(y, ({},))", "sort(y, {})[0]", "cummax(y, {})[0]", "max(y, {})[0]", "roll(y, 1, {})"]
    forms += ["diff(y, dim={})", "stack([y, y * y], {})", "cat([y, y.sin(), y], {})", "median(y, {})[0]"]
    return "torch." + draw(st.sampled_from(forms)).format(d)


def view(draw: Any, p: Program) -> str:
    d, e = draw(some_dim(p.y)), draw(some_dim(p.y))
    start, step = draw(st.integers(-2, 2)), draw(st.integers(1, 2))
    forms = [
        f"y.transpose({d}, {e})",
        f"y.unsqueeze({d})",
        f"y.squeeze({d})",
        f"y.diagonal({start}, {d}, {e})",
        f"y.unfold({d}, 2, {step})",
        f"y[{start}:{'' if start % 2 else 3}:{step}]",
        f"y[..., {start}]",
        f"y.narrow({d}, 0, 1)",
        "y.reshape(-1)",
        "y.flatten().expand(2, -1)",
        "y.repeat(2, 1, 2, 1)",
        "y.movedim(0, -1)",
        "torch.nn.functional.pad(y, (1, -1))",
        "y.tril()",
        f"y.chunk(2, {d})[-1]",
        f"y.unbind({d})[0]",
    ]
    return draw(st.sampled_from(forms))


def indexing(draw: Any, p: Program) -> str:
    """Indices repeat: they are drawn with replacement."""
    d = draw(some_dim(p.y))
    n = p.y.shape[d] if p.y.dim() else 1
    assume(n > 0)
    index = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
    size = list(p.y.shape)
    size[d : d + 1 or None] = [len(index)] if size else []
    flat = [-1 if k == d % len(size) else 1 for k in range(len(size))]
    wide = f"torch.tensor({index}).reshape({flat}).expand({size})"
    name = draw(st.sampled_from(["index_select", "gather", "scatter_add", "index_put", "index_add", "take", "getitem"]))
    if name == "index_select":
        return f"y.index_select({d}, torch.tensor({index}))"
    if name == "gather":
        return f"y.gather({d}, {wide})"
    if name == "take":
        return f"y.take(torch.tensor({index}))"
    if name == "getitem":
        return f"y.movedim({d}, 0)[[{', '.join(map(str, index))}]]"
    p.inputs.append(draw(tensors(st.just(size), st.just(p.y.dtype))))
    z = f"x{len(p.inputs) - 1}"
    if name == "index_put":
        return f"y.movedim({d}, 0).index_put((torch.tensor({index}),), {z}.movedim({d}, 0), accumulate=True)"
    if name == "index_add":
        return f"y.index_add({d}, torch.tensor({index}), {z}, alpha=2)"
    return f"y.scatter_add({d}, {wide}, {z})"


def product(draw: Any, p: Program) -> str:
    assume(p.y.dim() > 0)
    shape = draw(st.sampled_from([[p.y.shape[-1]], [p.y.shape[-1], 3], [2, p.y.shape[-1], 2]]))
    p.inputs.append(draw(tensors(st.just(shape), st.just(p.y.dtype))))
    return f"y @ x{len(p.inputs) - 1}"


def some_dim(y: torch.Tensor) -> Any:
    """A dimension, counted from either end."""
    return st.integers(-y.dim(), y.dim() - 1) if y.dim() else st.integers(-1, 0)


FAMILIES = {f.__name__: f for f in [elementwise, binary, number, reduction, along, view, indexing, product]}


@st.composite
def programs(draw: Any, families: list[str], most: int = 1) -> Program:
    """Up to ``most`` lines from the families."""
    x = draw(tensors())
    p = Program([x], x)
    for _ in range(draw(st.integers(1, most))):
        p.append(FAMILIES[draw(st.sampled_from(families))](draw, p))
    assume(p.y.is_floating_point() or p.y.is_complex())
    return p

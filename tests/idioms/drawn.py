"""Random programs as people write them: lines of source that compute a loss from ``x``, ``w`` and ``W``.

A program is grown line by line. A line stays if plain PyTorch can run and differentiate the program with it, so every
program that comes out is one that autograd trains. It prints as a script that can be pasted and run.

Names in a program: ``x`` [B, T] is data, ``w`` [T] and ``W`` [T, T] are parameters, ``s`` [T] and ``n`` [] are buffers,
``B`` and ``T`` are numbers.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from idioms import functions
from idioms.agreement import SEED, plain_grad, plain_steps
from torch import nn
from torch.nn import functional as F

import memograd as mg

GIVEN = ("x", "w", "W", "s")  # names that PyTorch does not let a program write to, or not so that it can be trained
LARGE = 1e6  # a loop that squares soon leaves what float64 can tell apart
COMMON = {"torch": torch, "F": F} | {name: getattr(functions, name) for name in functions.__all__}


@dataclass
class Drawn:
    """``lines`` of a function body, and the expression that it returns."""

    B: int
    T: int
    seed: int
    lines: list[str] = field(default_factory=list)
    result: str = "x.sum()"
    scope: dict[str, Any] = field(
        default_factory=dict, repr=False
    )  # every name and its value in front of the next line

    def inputs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What is differentiated, and what else there is."""
        generator = torch.Generator().manual_seed(self.seed)
        shapes = [(self.B, self.T), (self.T,), (self.T, self.T)]
        differentiated = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
        return differentiated, [torch.linspace(0.5, 1.0, self.T, dtype=torch.float64), torch.tensor(2)]

    # -- as source, and as things that can be called ---------------------------------------------------------------

    def body(self, lines: list[str]) -> str:
        return textwrap.indent("\n".join(lines), "    ")

    def function_source(self) -> str:
        return f"def f(x, w, W, s, n):\n    B, T = x.shape\n{self.body([*self.lines, f'return {self.result}'])}\n"

    def function(self, grad: Any = mg.grad) -> Any:
        return self._run(self.function_source(), "f", grad)

    def model_source(self) -> str:
        own = ["w, W, s, n = self.w, self.W, self.s, self.n", "B, T = x.shape"]
        forward = textwrap.indent(self.body([*own, *self.lines, f"return {self.result}"]), "    ")
        return f"class Model(Parts):\n    def forward(self, x):\n{forward}\n"

    def model(self, grad: Any = mg.grad) -> nn.Module:
        (_, w, W), (s, n) = self.inputs()
        return self._run(self.model_source(), "Model", grad, Parts=Parts)(w, W, s, n)

    def _run(self, source: str, name: str, grad: Any, **more: Any) -> Any:
        scope = COMMON | {"grad": grad} | more
        exec(source, scope)
        return scope[name]

    def __repr__(self) -> str:
        return "\n".join(
            [
                "import torch, memograd as mg",
                "from torch.nn import functional as F",
                "from idioms.functions import *",
                "torch.set_default_dtype(torch.float64)",
                "grad = mg.grad",
                self.function_source(),
                f"g = torch.Generator().manual_seed({self.seed})",
                f"B, T = {self.B}, {self.T}",
                "x, w, W = (torch.randn(size, generator=g) for size in [(B, T), (T,), (T, T)])",
                f"torch.manual_seed({SEED})",
                "print(mg.grad(f, (0, 1, 2))(x, w, W, torch.linspace(0.5, 1.0, T), torch.tensor(2)))",
            ]
        )

    @property
    def tolerance(self) -> float:
        """What is computed in single precision on the way is rounded so."""
        single = (".float()", "float32", ".half()")
        return 1e-4 if any(cast in line for line in self.lines for cast in single) else 1e-9

    # -- growing ---------------------------------------------------------------------------------------------------

    def attempt(self, *lines: str) -> bool:
        """Add ``lines`` if PyTorch can run and differentiate the program with them."""
        scope = self._trial([*self.lines, *lines])
        if scope is not None:
            self.lines += lines
            self.scope = scope
        return scope is not None

    def trains(self) -> bool:
        """PyTorch trains the program as a module, some parameter at least, and the loss stays moderate."""
        model = self.model(plain_grad)
        try:
            losses = plain_steps(model, self.batch(), {}, steps=2)
        except RuntimeError:
            return False
        moderate = all(v.isfinite().all() and v.abs().max() < LARGE for v in [*losses, *model.parameters()])
        return moderate and any(p.grad is not None for p in model.parameters())

    def batch(self) -> tuple[torch.Tensor]:
        return (self.inputs()[0][0],)

    def conclude(self, result: str) -> bool:
        """Let the program return ``result`` if that is a number PyTorch can differentiate."""
        if self._trial([*self.lines, f"loss_ = {result}"]) is None:
            return False
        self.result = result
        return True

    def _trial(self, lines: list[str]) -> dict[str, Any] | None:
        """The scope after ``lines``; None if PyTorch refuses, or if what it gives is not fit for a comparison.

        ``.data`` hides a write also from PyTorch's check that no saved value is written to: PyTorch then computes with
        the new value, which is no derivative of anything. So the trial uses ``detach``, which does not hide it, and
        a copy where ``.data`` is assigned. Lines that raise where they have turned gradients off leave it so: the
        mode is put back.
        """
        inputs, rest = self.inputs()
        leaves = [t.requires_grad_() for t in inputs]
        source = f"def f(x, w, W, s, n):\n    B, T = x.shape\n{self.body([*lines, 'return locals()'])}\n"
        source = re.sub(r"\.data = (.*)", r".detach().copy_(\1)", source).replace(".data", ".detach()")
        f = self._run(source, "f", plain_grad)
        torch.manual_seed(SEED)
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                # in which order such a write goes PyTorch does not say
                warnings.filterwarnings("error", message="Use of index_put_ on expanded tensors")
                scope = f(*leaves, *rest)
            smooth = [v for v in scope.values() if _smooth(v) and v.requires_grad]
            total = sum((v.double() * torch.linspace(0.5, 1.5, v.numel()).view(v.shape)).sum() for v in smooth)
            gradients = torch.autograd.grad(total, leaves, materialize_grads=True, create_graph=True)
            second = sum((g * g).sum() for g in gradients)
            curved = isinstance(second, torch.Tensor) and second.requires_grad
            seconds = torch.autograd.grad(second, leaves, materialize_grads=True) if curved else []
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NameError, UserWarning):
            return None
        if any(t.requires_grad for t in rest):  # a buffer that remembers the graph of the step before
            return None
        values = [v for v in scope.values() if _smooth(v)]
        fit = all(v.numel() == 0 or v.detach().abs().max() < LARGE for v in [*values, *gradients, *seconds])  # no NaN
        return scope if fit else None

    def reduced(self, fails: Callable[[Drawn], bool]) -> Drawn:
        """A program of fewer lines that still ``fails``."""
        terms = self.result.split(" + ")
        fewer = [replace(self, lines=self.lines[:i] + self.lines[i + 1 :]) for i in reversed(range(len(self.lines)))]
        fewer += [
            replace(self, result=" + ".join(terms[:i] + terms[i + 1 :])) for i in range(len(terms) * (len(terms) > 1))
        ]
        for shorter in fewer:
            try:
                fit = shorter._trial([*shorter.lines, f"loss_ = {shorter.result}"]) is not None
            except (NameError, SyntaxError):  # the line is needed, or a plus was not one between terms
                continue
            if fit and fails(shorter):
                return shorter.reduced(fails)
        return self

    def named(self, *shape: int) -> list[str]:
        """Names of float64 tensors of this shape."""
        return [k for k, v in self.scope.items() if _smooth(v) and v.shape == shape and v.dtype == torch.float64]

    def tensors(self) -> list[str]:
        """Names of float64 tensors."""
        return [k for k, v in self.scope.items() if _smooth(v) and v.dtype == torch.float64]

    def new(self) -> str:
        """A name nobody has."""
        return f"y{sum(k[0] == 'y' for k in self.scope)}"


class Parts(nn.Module):
    """The parameters and buffers that programs use."""

    def __init__(self, w: torch.Tensor, W: torch.Tensor, s: torch.Tensor, n: torch.Tensor) -> None:
        super().__init__()
        self.w, self.W = nn.Parameter(w), nn.Parameter(W)
        self.register_buffer("s", s)
        self.register_buffer("n", n)


def _without_one(entries: list[str]) -> list[list[str]]:
    return [entries[:i] + entries[i + 1 :] for i in reversed(range(len(entries)))]


def _smooth(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()

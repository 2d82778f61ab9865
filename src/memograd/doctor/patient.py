"""A model under examination: every value of its forward pass, every adjoint, and who contributed how much to it.

The recursion of ``adjoint/recursion.py`` runs on numbers here, so the factors of the chain rule are there to be
measured one by one: what reaches an operator, ``adjoint(u)``, and what it passes on, ``shares(u, v)``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd.adjoint.expand import expand
from memograd.doctor.recursed import recursed
from memograd.doctor.report import Finding, Where
from memograd.explain.mathml import real
from memograd.findings import Severity
from memograd.graph.graph import Graph
from memograd.inspection.program import Inspected, name_of
from memograd.inspection.report import Finding as Look
from memograd.rules.registry import lookup

Tensor = torch.Tensor
# What gives the same numbers in another shape, order or precision: a layer's weight is still the weight behind them.
_SAME_NUMBERS = frozenset(
    [
        "t",
        "transpose",
        "permute",
        "view",
        "reshape",
        "_unsafe_view",
        "expand",
        "unsqueeze",
        "squeeze",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "_to_copy",
        "stop",
        "no_grad",
        "select",
        "slice",
        "split",
        "unbind",
        "flatten",
        "unflatten",
    ]
)


# Operators that multiply by a weight and add up: dense and convolutional layers, and recurrent ones as a whole.
PRODUCTS = frozenset(["addmm", "mm", "bmm", "baddbmm", "convolution", "linear", "mkldnn_rnn_layer", "lstm_kernel"])
NORMS = ("native_batch_norm", "_native_batch_norm", "native_layer_norm", "native_group_norm", "cudnn_batch_norm")


def normalised(u: fx.Node) -> bool:
    """Whether a normalisation follows, which makes the scale of what ``u`` gives harmless."""
    users = list(u.users)
    return bool(users) and all(name_of(v).startswith(NORMS) for v in users)


@dataclass
class Patient:
    """A program with one run of it: every value, every adjoint, every contribution.

    Attributes:
        inspected: the program and its graph, with operators as PyTorch calls them (no numbers).
        graph: the same with what the table states by simpler operators taken apart: what the recursion runs on.
        flat: the flat inputs of both.
        values: of each node of ``graph``.
        table: of each node that an adjoint reaches, its adjoint.
        pulled: of each operator, what it contributes to the adjoints of its operands.
        batch: how many samples; 0 where that is not known.
    """

    inspected: Inspected
    graph: Graph
    flat: Sequence[Any]
    values: dict[fx.Node, Any]
    table: dict[fx.Node, Any]
    pulled: dict[fx.Node, dict[fx.Node, list[Any]]]
    batch: int = 0

    @property
    def loss(self) -> fx.Node:
        return self.graph.results[0]

    @cached_property
    def nodes(self) -> list[fx.Node]:
        """The operators that an adjoint flows through, in order of computation (not those that pick one of several
        results)."""
        return [n for n in self.graph.nodes if n in self.table and n.target is not operator.getitem]

    @cached_property
    def parameters(self) -> dict[str, fx.Node]:
        """The placeholders of what is differentiated: parameters, and arguments that ask for it."""
        return {name: self.graph.placeholder(name) for name in self.inspected.wrt}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """What the parameters among them are bound to."""
        named = {i.name: i.bound for i in self.graph.inputs if i.kind == "parameter" and i.name in self.parameters}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @cached_property
    def unreached(self) -> set[str]:
        """Names of what is differentiated and gets no adjoint."""
        return {name for name in self.inspected.wrt if self.graph.placeholder(name) not in self.table}

    @cached_property
    def finite(self) -> bool:
        """Whether the loss and all gradients are numbers."""
        gradients = [self.table[p] for p in self.parameters.values() if p in self.table]
        return all(bool(torch.isfinite(t).all()) for g in (self.values[self.loss], *gradients) for t in tensors(g))

    def gradient(self, name: str) -> Any:
        """The gradient of a parameter; None where nothing flows to it."""
        return self.table.get(self.parameters[name])

    def named(self, name: str) -> str:
        return self.inspected.named(name)

    def source_of(self, v: fx.Node) -> fx.Node:
        """The value that ``v`` is in another shape, order or precision."""
        while v.op == "call_function" and v.all_input_nodes and name_of(v) in _SAME_NUMBERS:
            v = v.all_input_nodes[0]
        return v

    @cached_property
    def trained(self) -> set[fx.Node]:
        return set(self.parameters.values())

    def weight_of(self, u: fx.Node) -> fx.Node | None:
        """The weight of a layer (a matrix, kernels, a table) that the operator ``u`` applies; None for all others."""
        for v in u.all_input_nodes:
            root = self.source_of(v)
            if root in self.trained and root.meta["val"].dim() > 1:
                return root
        return None

    @cached_property
    def layers(self) -> list[fx.Node]:
        """The operators that apply a weight to something, in order of computation."""
        return [u for u in self.nodes if name_of(u) not in _SAME_NUMBERS and u is not self.loss and self.weight_of(u)]

    def share(self, u: fx.Node, v: fx.Node) -> float:
        """The norm of what ``u`` contributes to the adjoint of ``v``."""
        return sum(norm(s) ** 2 for s in self.pulled.get(u, {}).get(v, [])) ** 0.5

    def consumers(self, v: fx.Node) -> list[fx.Node]:
        """Through which operators the adjoint of ``v`` comes."""
        return [u for u in v.users if v in self.pulled.get(u, {})]

    # -- words -----------------------------------------------------------------------------------------------------

    def where(self, node: fx.Node, phase: Any = "forward") -> Where:
        """The place of an operator in the program."""
        meta = node.meta
        module, source = self.named(meta.get("module") or ""), known(meta.get("source"))
        entry = lookup(node.target) if phase == "backward" and node.op == "call_function" else None
        rule = f"{name_of(node)}: {real(entry.formula)}" if entry is not None else ""
        target: Any = node.target
        name = str(target) if node.op == "call_function" and target is not operator.getitem else ""
        return Where(module, source, meta.get("line") or "", name, phase, rule)

    def finding(
        self,
        severity: Severity,
        kind: str,
        what: str,
        node: fx.Node | None = None,
        phase: Any = "forward",
        evidence: Sequence[str] = (),
        fix: str = "",
        names: Sequence[str] = (),
        **numbers: Any,
    ) -> Finding:
        """One about an operator of the graph, or about the whole."""
        where = self.where(node, phase) if node is not None else Where()
        return Finding(severity, kind, what, where, tuple(evidence), fix, "", tuple(names), numbers)

    def layer(self, node: fx.Node) -> str:
        """What a person calls the layer of an operator: its module and, where this is called again and again, when."""
        path = self.named(node.meta.get("module") or "")
        calls = node.meta.get("calls") or ()
        weight = self.weight_of(node)
        name = path or (self.named(self._name_of(weight)) if weight is not None else name_of(node))
        repetition = calls[-1][1] if calls else 0
        return f"{name} (call {repetition + 1})" if repetition else name

    def _name_of(self, placeholder: fx.Node) -> str:
        return next((n for n, p in self.parameters.items() if p is placeholder), "")


def examine(inspected: Inspected, flat: Sequence[Any], batch: int = 0) -> Patient:
    """Run the forward pass and the recursion on the flat inputs of the program's graph."""
    graph = expand(inspected.graph, inspected.wrt, [inspected.loss])
    inside = Inspected(inspected.program, graph, inspected.wrt)
    return Patient(inspected, graph, flat, *recursed(inside, flat), batch)


def known(source: str | None) -> str:
    """A place in the user's program; empty where only libraries were on the way."""
    return "" if source in (None, "<unknown>") else source


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a value or adjoint that may have several parts."""
    return [t for t in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(t, Tensor)]


def wide(tensor: Tensor) -> Tensor:
    """In float64, absolute values where it is complex: its own rounding does not matter in what is measured."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.abs() if tensor.is_complex() else tensor
    try:
        return tensor.to(torch.float64)
    except TypeError:  # a device that has none
        return tensor.cpu().to(torch.float64)


def norm(value: Any) -> float:
    """The Euclidean norm of an adjoint, of all its parts together."""
    return sum(wide(t).square().sum().item() for t in tensors(value)) ** 0.5


def rms(tensor: Tensor) -> float:
    return wide(tensor).square().mean().sqrt().item() if tensor.numel() else 0.0


def translated(look: Look, severity: Severity | None = None, kind: str = "") -> Finding:
    """What a preflight says, as a finding of the doctor's."""
    where = Where(look.module, look.source, look.line)
    return Finding(severity or look.severity, kind or look.kind, look.what, where, (), look.advice, "", look.names)


def spelled(name: str) -> str:
    """A parameter as it is written in Python: ``model.layers[3].weight`` for ``layers.3.weight``."""
    return "model" + re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f".{name}")

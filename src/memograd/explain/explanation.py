"""What is known about one sample's gradients, with every number on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from memograd.adjoint.products import Products
from memograd.explain.watch import Event


@dataclass(frozen=True)
class Edge:
    """The local derivative of ``node`` with respect to ``operand``."""

    node: str
    operand: str
    formula: str
    file: str
    numbers: list[list[float]]


@dataclass(frozen=True)
class Gradient:
    """One number of one parameter's gradient.

    Attributes:
        products: for each path to the loss its factors, as (what is derived, by what, value).
        ours, autograd, differences: the three witnesses.
    """

    name: str
    products: list[list[tuple[str, str, float]]]
    ours: float
    autograd: float
    differences: float


@dataclass(frozen=True)
class Explanation:
    """Everything ``memograd explain`` shows; ``text.render`` is for people, ``as_dict()`` for programs."""

    title: str
    inputs: list[tuple[str, str, torch.Tensor]]  # node, user's name, value
    operators: list[tuple[str, str, list[str], torch.Tensor]]  # node, operator, operands, value
    edges: list[Edge]
    events: list[Event]
    gradients: list[Gradient]
    products: Products

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "inputs": [{"node": n, "name": name, "value": v.tolist()} for n, name, v in self.inputs],
            "graph": [
                {"node": n, "operator": op, "operands": args, "value": v.tolist()} for n, op, args, v in self.operators
            ],
            "local_derivatives": [vars(e) for e in self.edges],
            "visits": [
                {
                    "depth": e.depth,
                    "kind": e.kind,
                    "what": e.what,
                    "value": None if e.value is None else e.value.tolist(),
                }
                for e in self.events
            ],
            "gradients": [vars(g) for g in self.gradients],
            "products": {"naive": self.products.naive, "memoized": self.products.memoized},
        }

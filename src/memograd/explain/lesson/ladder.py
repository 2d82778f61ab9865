"""Section 6, first half: a ladder of diamonds, how often the recursion asks with a table and without, exactly."""

from __future__ import annotations

from typing import Any

import torch

from memograd.adjoint.products import count_products
from memograd.explain.data import collect, subject
from memograd.pipeline import capture

RUNGS = 60
DRAWN = 6  # rungs up to which the tree without a table is written down


def ladder(x: torch.Tensor, rungs: int) -> torch.Tensor:
    """Each rung is a diamond: x reaches the product on two ways."""
    for _ in range(rungs):
        x = torch.sin(x) * torch.cos(x)
    return x


def counts(rungs: int = RUNGS, drawn: int = DRAWN) -> dict[str, Any]:
    """Products for every number of rungs, and the protocols of the short ladders."""
    x = torch.tensor(0.5, dtype=torch.float64)
    of = [count_products(capture(ladder, x, n)) for n in range(1, rungs + 1)]
    trees = []
    for n in range(1, drawn + 1):
        page = collect(subject(lambda x, n=n: ladder(x, n), (x,), {}, None))[0]
        nodes = [
            {"label": node["label"], "contributions": [{"from": c["from"]} for c in node.get("contributions", [])]}
            for node in page["nodes"]
        ]
        trees.append({"nodes": nodes, "events": page["events"], "naive": page["naive"], "order": page["order"]})
    return {"naive": [str(c.naive) for c in of], "memoized": [c.memoized for c in of], "trees": trees}

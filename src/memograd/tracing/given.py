"""Dicts, lists and objects among the arguments of a program, to which it may write, and attributes of tensors::

    def forward(self, batch):
        batch["logits"] = self.net(batch["x"])  # the caller's batch has logits afterwards
        batch["x"].scale = 2  # and the caller's x a scale

A capture hands over copies of them, filled with stand-ins. What the program does to a copy happens at each run to what
stands in its place among the arguments of that run.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import pytree
from memograd.tracing.holders import Holder, Keyed, Noted, OfATensor, dict_of, holder_of

Path = tuple[int, ...]  # from the arguments down: which child of each


@dataclass(frozen=True)
class Way:
    """Where a holder stands among the arguments: a container, or the attributes of an object that holds some, or of a
    tensor."""

    path: Path
    attributes: bool

    def holder(self, containers: Mapping[Path, Any], like: Holder) -> Holder:
        """What stands there in these arguments, as ``like`` stood in those of the capture."""
        container = containers[self.path]
        if isinstance(like, OfATensor):
            return like.of(container)
        return Keyed(dict_of(container)) if self.attributes else holder_of(container)


class Given:
    """Those among the arguments of one capture, and what they held when the program was called.

    Attributes:
        paths: where each stands, by its id.
        before: what can hold values in them, and what it held.
        ways: where that stands, by the id of what holds the values.
    """

    def __init__(self, arguments: Any) -> None:
        self._alive = arguments
        self.paths: dict[int, Path] = {}
        self.before: list[tuple[Holder, Any]] = []
        self.ways: dict[int, Way] = {}
        for path, container in containers(arguments):
            if isinstance(container, torch.Tensor):
                self._keep(Noted(container), Way(path, attributes=True))
                continue
            self.paths[id(container)] = path
            if isinstance(container, (dict, list, collections.deque)):
                self._keep(holder_of(container), Way(path, attributes=False))
            if (own := dict_of(container)) is not None:
                self._keep(Keyed(own), Way(path, attributes=True))

    def _keep(self, holder: Holder, way: Way) -> None:
        self.before.append((holder, holder.contents()))
        self.ways[id(holder.holder)] = way


def containers(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What holds the leaves of ``tree``, from the outside to the inside, and leaves that are tensors."""
    children = pytree.tree_leaves(tree, is_leaf=lambda x: x is not tree)
    if len(children) == 1 and children[0] is tree:
        if isinstance(tree, torch.Tensor):
            yield path, tree
        return
    yield path, tree
    for k, child in enumerate(children):
        yield from containers(child, (*path, k))

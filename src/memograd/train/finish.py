"""The update that ends a group of batches: one graph of its own, from the sums of gradients to the new weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import note_step, pytree
from memograd.graph.graph import Graph
from memograd.pipeline import simplify
from memograd.run.choose import Choice
from memograd.train import outside
from memograd.train.appended import Update
from memograd.train.build import Choose, Training
from memograd.train.check import Check
from memograd.train.counters import Updates
from memograd.train.gather import collected
from memograd.train.held import Held, tensors_in
from memograd.train.program import Program, detached, settings
from memograd.train.update import why_not


@dataclass(eq=False)
class Final:
    """The compiled update of some parameters."""

    key: Any
    graph: Graph
    choice: Choice
    flat: list[Any]
    held: Held
    share: bool
    norm: torch.Tensor | None
    compared: bool = False


class Finish:
    """Updates with what has been gathered."""

    def __init__(self, training: Training, check: Check, updates: Updates) -> None:
        self.training = training
        self.check = check
        self.updates = updates
        self._all: list[Final] = []  # the one used last first
        self._batch_bytes = 0  # of the batch last gathered, which is alive beside the update

    @property
    def how(self) -> str:
        """How the update last made runs."""
        return self._all[0].choice.backend.how if self._all else ""

    def gather(self, program: Program, results: Sequence[torch.Tensor], batch: Any) -> None:
        """One more batch of a group was run."""
        carried = self.training.carried
        if program.gradients:
            outside.gather(self.training, program, results)
        else:
            carried.gathered.update(dict.fromkeys(program.updated))
        carried.batches += 1
        tensors = [t for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor)]
        self._batch_bytes = sum(t.numel() * t.element_size() for t in tensors)

    def __call__(self, choose: Choose) -> None:
        """One update."""
        training, carried = self.training, self.training.carried
        if why_not(training.optimizer) is not None:
            outside.update_with_sums(training)
        elif carried.gathered:
            final = self._ready(choose)
            backend = final.choice.backend
            results, fresh = None, not final.compared
            if fresh or self.check.when == "always":
                results = self.check.update(final.graph, final.choice, final.flat)
                final.compared = True
            if results is None:
                backend.step(final.flat)
            else:
                backend.commit(final.flat, results)
            if final.share:
                self.updates.ran(training.optimizer, fresh)
            carried.norm = final.norm
            carried.updated()
        carried.forget_sums()

    def _ready(self, choose: Choose) -> Final:
        training, carried = self.training, self.training.carried
        training.prepare()
        alike = self.updates.note(carried.gathered)
        key = (settings(training.optimizer, training.rates), tuple(map(id, carried.gathered)), len(carried.averages))
        optimizer = training.optimizer
        self._all = [f for f in self._all if f.share <= alike and not f.held.elsewhere(optimizer)]
        for final in self._all:
            if final.key == key:
                return final
        clip = training.refinements.clip
        stage = Update(collected(carried.gathered, carried), optimizer, training.rates, alike, clip, carried)
        buffers = {
            b.untyped_storage().data_ptr(): b.untyped_storage().nbytes()
            for b in training.objective.buffers()
            if b.layout is torch.strided
        }
        graph = training.beside(simplify(stage.append()), sum(buffers.values()) + self._batch_bytes)
        flat = detached([i.tensor for i in graph.inputs])
        final = Final(key, graph, choose(graph, flat), flat, Held(graph, tensors_in(optimizer)), alike, stage.norm)
        self._all = [final, *self._all[:15]]
        note_step(optimizer)
        return final

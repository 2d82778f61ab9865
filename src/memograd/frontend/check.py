"""The witness of a wrapped model: PyTorch runs the same call beside ours, and the gradients must agree.

PyTorch's own forward pass runs first, on the same arguments and with the same random numbers, and leaves nothing behind
but its tape, which waits for the cotangents that the loop sends back. So the comparison is of this very call, whatever
the loss is. For one call it needs the memory of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import inf
from typing import Any

import torch
from torch import nn

from memograd import autocast
from memograd._torch import redirected, without_dispatch_modes, without_hooks
from memograd.draws import rng_state
from memograd.errors import GradientMismatchError
from memograd.frontend.answers import Question
from memograd.frontend.beside import bound_sources, ran_beside
from memograd.frontend.boundary import Call
from memograd.frontend.program import Program
from memograd.tracing.reads import Reads
from memograd.tracing.under_way import TURN
from memograd.tracing.undisturbed import Contents, Generators, undone
from memograd.witness.agreement import NOISE, Difference, difference, largest, precision_of
from memograd.witness.reentry import reenters
from memograd.witness.trial import NUDGES

Tensor = torch.Tensor
_FAR = 20.0  # times as far as some roundings move PyTorch's gradients: other kernels make many


class Witness:
    """PyTorch's own run of a call, or a derivative of that.

    Attributes:
        names: what the inputs of ours are called.
        sources: those that can be differentiated with respect to, by position.
        results: what PyTorch returned, by position among our results.
        say: takes the reason: how it came out.
        drawn: where the generators stood before PyTorch's forward pass.
        users: those of the sources that are the user's own, whose hooks wait for our gradients.
        met: what the forward pass has met, where a hook or a backward of the user's may leave something.
    """

    def __init__(
        self,
        program: Program,
        names: list[str],
        sources: dict[int, Tensor],
        results: dict[int, Tensor],
        say: Callable[[str], None],
        drawn: Generators,
    ) -> None:
        self.program, self.names, self.sources, self.results, self.say = program, names, sources, results, say
        self.drawn = drawn
        self.users: list[Tensor] = []
        self.met: list[tuple[str, Any]] = []
        self.behind: list[tuple[Tensor, str]] = []  # where the generators stood behind PyTorch's forward pass
        self.starts: Generators | None = None  # and where they start for PyTorch's backward pass
        self.ahead = False  # our forward pass has drawn what the backward pass needs
        self.again: Callable[..., Witness | None] = lambda nudge: None  # the same call, with parameters nudged
        self.buffers: list[Tensor] = []  # a checkpoint computes a part of the forward pass again, and writes again

    @classmethod
    def of(
        cls,
        program: Program,
        model: nn.Module,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        say: Any,
        drawn: Generators | None = None,
        nudge: float = 0.0,
    ) -> Witness | None:
        """Run one call of ``function``, a forward pass of ``model``; None where that cannot be done.

        Args:
            drawn: where the generators start; where they stand, by default.
            nudge: change the parameters by so much of themselves beforehand, to see what rounding can do.
        """
        drawn = drawn or Generators(model)
        try:
            # a detached tensor has no part in a cycle, and nobody asks for its version: buffers are put back;
            # what arguments were is remembered where the call writes to them
            keep = torch.clone if program.rewritten else torch.detach
            with torch.autograd.graph.saved_tensors_hooks(lambda t: keep(t.detach()), lambda t: t):
                ran = ran_beside(program, model, function, args, kwargs, drawn, nudge)
        except RuntimeError:  # the transforms of ``torch.func`` forbid such hooks; whatever else it is is raised again
            ran = ran_beside(program, model, function, args, kwargs, drawn, nudge)
        if ran is None:
            say("not compared: the call goes on from what an earlier one left behind, with its history")
            return None
        sources, new, out, met, behind = ran
        names = [i.name for i in program.early]
        results: dict[int, Tensor] = {}
        for position, k in zip(program.graph.calling.tensor_out, program.graph.positions("output"), strict=True):
            if k in program.places:
                results[program.places[k]] = out[position]
        results |= {place: new[program.graph.outputs[k].name] for k, place in program.rewritten.items()}
        witness = cls(program, names, sources, results, say, drawn)
        witness.users, witness.met = bound_sources(program, sources), met
        witness.buffers, witness.behind = list(model.buffers()), behind
        witness.again = partial(cls.of, program, model, function, args, kwargs, lambda why: None, drawn)
        return witness

    def drawn_on(self, devices: Sequence[str]) -> list[tuple[Tensor, str]]:
        """Where the generators of these devices stood before PyTorch's forward pass, for ours to draw the same."""
        return [(state, device) for state, device in self.drawn.shared if device in devices]

    def drew(self) -> None:
        """Our forward pass has run just now."""
        self.ahead = any(not torch.equal(rng_state(device), state) for state, device in self.behind)

    def look(self, results: Sequence[Tensor]) -> None:
        """Compare our results, at once: the loop may write to them.

        Raises:
            GradientMismatchError: they differ by more than rounding.
        """
        share = precision_of(self.program.graph).loose
        pairs = [(k, results[k], value) for k, value in self.results.items()]
        wrong = [difference(f"result {k} of the model", "", ours, value, share, 0.0) for k, ours, value in pairs]
        if any(wrong):
            raise _mismatch([w for w in wrong if w is not None])

    def derived(
        self, question: Question, cotangents: Sequence[Tensor], further: bool, drawn: Generators
    ) -> dict[int, Any] | None:
        """PyTorch's gradients, before our pass begins; None where it has none. For the arguments see ``compare``.

        Args:
            drawn: where the generators stand.
        """
        used, wanted = question
        if not {*used} <= self.results.keys():
            self.say("not compared: the loss uses what the model leaves in an attribute, and not what it returns")
            return None
        ends = [self.results[k] for k in used]
        self.starts = drawn
        if self.ahead:
            drawn.shared = self.behind
        with without_dispatch_modes(of_users=False), drawn.again():
            return self._derived(ends, wanted, [c.detach() for c in cotangents], further)

    def compare(
        self,
        call: Call,
        question: Question,
        cotangents: Sequence[Tensor],
        gradients: dict[int, Any],
        further: bool,
        theirs: dict[int, Any] | None,
    ) -> None:
        """Compare what our forward and backward pass computed with PyTorch's.

        Args:
            question: results and inputs, by position.
            cotangents: of these results.
            gradients: ours, by position of the input.
            further: whether they may be differentiated on; then a derivative of theirs is compared as well, along
                directions drawn at random.
            theirs: what was ``derived`` for them.

        Raises:
            GradientMismatchError: they differ by more than rounding.
        """
        used = question[0]
        if {*used} <= self.results.keys():
            self.program.expected.compared(question)
        if theirs is None:
            return
        seeds = [c.detach() for c in cotangents]
        wrong = self._wrong("the gradient of", gradients, theirs)
        if wrong and (wrong := self._beyond_rounding(wrong, question, seeds)):
            raise _mismatch(wrong)
        what = f"{_counted(len(used), 'result')} and {_counted(len(theirs), 'gradient')}"
        if further:
            what += self._further(call, question, seeds, theirs)
        self.say(f"agrees with torch.autograd: {what}")

    def _further(self, call: Call, question: Question, seeds: Sequence[Tensor], theirs: dict[int, Any]) -> str:
        """Compare a derivative of the gradients, computed from the inputs anew; how it came out."""
        wanted, sources = question[1], [call.flat[k] for k in question[1]]
        running = call.program.first.running()  # ahead: who has the turn must not wait for who makes it ready
        with TURN, undone(Reads(self.met)):
            gradients = running.afresh(call, question, call.flat, seeds)
        both = [k for k, g in theirs.items() if g is not None and g.requires_grad and gradients[k].requires_grad]
        directions = _directions([theirs[k] for k in both])
        second = self._derived([theirs[k] for k in both], wanted, directions, False) if both else None
        if second is None:
            return ""
        with without_hooks(sources):
            ours = torch.autograd.grad([gradients[k] for k in both], sources, directions, allow_unused=True)
        zeros = {k: torch.zeros_like(call.flat[k]) for k in wanted}
        mine = {k: zeros[k] if g is None else g for k, g in zip(wanted, ours, strict=True)}
        others = {k: zeros[k] if g is None else g for k, g in second.items()}
        if wrong := self._wrong("the second derivative by", mine, others):
            raise _mismatch(wrong)
        return ", and a derivative of these"

    def _derived(
        self, ends: Sequence[Tensor], wanted: Sequence[int], seeds: Sequence[Tensor], further: bool
    ) -> dict[int, Any] | None:
        """PyTorch's gradients by position; None where it has none."""
        if reenters(ends):
            self.say("not compared: torch.autograd.grad cannot run checkpoints with use_reentrant=True")
            return None
        sources = [self.sources[k] for k in wanted]
        contents = Contents(self.buffers)
        try:
            # our pass calls the user's hooks: what they leave here is taken back
            with TURN, undone(Reads(self.met)), redirected(), without_hooks(self.users), autocast.off():
                theirs = torch.autograd.grad(ends, sources, seeds, create_graph=further, allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            self.say(f"not compared: PyTorch cannot run it: {str(error).splitlines()[0]}")
            return None
        finally:
            contents.put_back()
        return dict(zip(wanted, theirs, strict=True))

    def _wrong(self, what: str, ours: dict[int, Any], theirs: dict[int, Any]) -> list[Difference]:
        share = precision_of(self.program.graph).loose
        noise = NOISE * share * max((largest(g) for g in theirs.values() if g is not None), default=0.0)
        wrong: list[Difference | None] = []
        for place, gradient in theirs.items():
            mine, name = ours.get(place), self.names[place]
            if (mine is None) != (gradient is None):
                raise _mismatch(
                    [Difference(f"{what} {name!r}, which one of the two has not,", name, inf, 0.0, (), 0, 0)]
                )
            if mine is not None and gradient is not None:
                wrong.append(difference(f"{what} {name!r}", name, mine.detach(), gradient.detach(), share, noise))
        return [w for w in wrong if w is not None]

    def _beyond_rounding(
        self, wrong: list[Difference], question: Question, seeds: Sequence[Tensor]
    ) -> list[Difference]:
        """Those that are larger than what roundings do to PyTorch's own gradients: of a bias in front of a
        normalization all is rounding, and at a kink (``relu``, a maximum) either side is right."""
        used, wanted = question
        eps, moves = precision_of(self.program.graph).eps, dict.fromkeys([d.name for d in wrong], 0.0)
        gradients: list[dict[int, Any]] = []
        for roundings in (0, *NUDGES):
            with torch.enable_grad():  # there is none in a backward pass
                witness = self.again(nudge=roundings * eps)
            ends = None if witness is None else [witness.results[k] for k in used]
            with self.starts.again() if self.starts is not None else nullcontext():
                derived = None if ends is None or witness is None else witness._derived(ends, wanted, seeds, False)
            if derived is None:
                return wrong
            gradients.append(derived)
        for moved in gradients[1:]:
            for place, before in gradients[0].items():
                after, name = moved[place], self.names[place]
                if name in moves and before is not None and after is not None:
                    moves[name] = max(moves[name], _FAR * largest(after - before))
        return [d for d in wrong if d.error > moves[d.name]]


def _directions(like: Sequence[Tensor]) -> list[Tensor]:
    """Random numbers that nobody else draws."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g) for g in like]


def _mismatch(wrong: list[Difference]) -> GradientMismatchError:
    first, *others = sorted(wrong, key=lambda d: (bool(d.name), -d.share))
    more = f" (and {len(others)} more: {', '.join(d.what for d in others[:3])})" if others else ""
    return GradientMismatchError(
        f"{first}{more}. These gradients were not handed on. Please report it; until it is mended, "
        "unwrap this model (mg.unwrap), or give the operator a rule with @memograd.rule",
        name=first.name,
        error=first.error,
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"

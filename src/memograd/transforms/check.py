"""The transforms' own witness: the first time a program of a signature is made, PyTorch computes the same.

Off unless somebody asks (``mg.testing.check_transforms``, or ``MEMOGRAD_CHECK=1`` in the environment), since it costs a
run of the function by PyTorch, and one of the graph operator by operator, for each signature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from memograd._torch import has_data, pytree
from memograd.cautions import caution
from memograd.draws import same_draws
from memograd.graph.graph import Graph
from memograd.pipeline import capture_for, differentiate
from memograd.tracing.undisturbed import Generators
from memograd.transforms.plain import Plain
from memograd.transforms.program import Program
from memograd.witness.agreement import Difference, Results
from memograd.witness.autograd import Derived, by_autograd
from memograd.witness.blame import first_wrong_rule, place, run_by_autograd
from memograd.witness.trial import Trial, mismatch

Tensor = torch.Tensor
_ADVICE = (
    "Nothing was written to. Please report it; until it is mended, use torch.func here, or give the operator a rule "
    "with @memograd.rule"
)


class check_transforms:  # noqa: N801  (called like a function, as torch.set_grad_enabled)
    """Whether transforms are compared with ``torch.autograd`` the first time each of their programs is made.

    It holds from now on, and within a ``with`` statement until its end. A program is compared on the arguments of that
    call, with the generators' states of that call; nothing is left behind. ``MEMOGRAD_CHECK=1`` in the environment
    turns it on from the start.

    Args:
        on: compare; what was compared already is not compared again.
        tell: warn where PyTorch cannot run the function, or has no derivative of it; without a word by default.

    Raises:
        GradientMismatchError: (a transform does) the difference is more than rounding; the message names the argument,
            the size, and the first operator at which the two part.
    """

    on = os.environ.get("MEMOGRAD_CHECK", "0") not in ("", "0")
    tell = False

    def __init__(self, on: bool = True, tell: bool = False) -> None:
        self._before = check_transforms.on, check_transforms.tell
        check_transforms.on, check_transforms.tell = on, tell

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        check_transforms.on, check_transforms.tell = self._before


@dataclass
class _Trial(Trial):
    """A transform's program beside PyTorch: ``forward`` names what is differentiated, ``joint`` has cotangents.

    Attributes:
        main: the results that are differentiated.
        ways: cotangents or tangents, by name of what they belong to.
        pushes: they are tangents.
    """

    main: Sequence[str] = ()
    ways: Mapping[str, Tensor] = field(default_factory=dict)
    pushes: bool = False

    def theirs(self, **options: Any) -> Results:
        results = by_autograd(
            self.program, self.args, self.kwargs, self.forward, self.drawn, derive=self._derive, **options
        )
        return self._called(results)

    def named(self, results: Sequence[Tensor]) -> Results:
        plain = super().named(results)
        outputs = {self.joint.outputs[i].name: results[i] for i in self.joint.positions("output")}
        return self._called(replace(plain, loss=outputs[self.main[0]], results=outputs))

    def _called(self, results: Results) -> Results:
        others = {name: y for name, y in results.results.items() if name != self.main[0]}
        derivative = "the tangent" if self.pushes else "the gradient"
        return replace(results, results=others, value="the value", derivative=derivative)

    def _derive(self, out: Any, sources: Mapping[str, Tensor]) -> Derived:
        names = [o.name for o in self.forward.outputs if o.kind == "output"]
        tensors = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        results = dict(zip(names, tensors, strict=True))
        plain = Plain(self.program, (), False, self.pushes, passes=False)
        plain.main, plain.names = list(self.main), list(sources)
        derived = plain.linear(([results[n] for n in self.main], list(sources.values())), self.ways)
        derivatives = {n: derived.get(n) for n in (self.main if self.pushes else sources)}
        return results[self.main[0]], derivatives, {n: y.detach() for n, y in results.items()}

    # -- blame -----------------------------------------------------------------------------------------------------

    def culprit(self, wrong: Sequence[Difference], theirs: Results) -> str:
        """That of a scalar with the same derivatives. Rules come first: a function that takes derivatives itself has
        wrong values when a rule is wrong."""
        generators = self.drawn.now()
        try:
            scalar = self._scalar()
            self.drawn.put_back()
            if node := first_wrong_rule(scalar.forward, run_by_autograd(scalar.forward, scalar.flat, scalar.joint.wrt)):
                return f"The two part first at {place(node)}: its rule gives other adjoints than torch.autograd."
            theirs = scalar.theirs()
            return scalar.culprit(scalar.wrong(scalar.ours(), theirs) or wrong, theirs)
        except Exception as error:
            return f"The operator to blame could not be told ({type(error).__name__})."
        finally:
            generators.put_back()

    def _scalar(self) -> Trial:
        generator = torch.Generator().manual_seed(1)
        meta = {o.name: n.meta["val"] for n, o in zip(self.forward.results, self.forward.outputs, strict=True)}
        seeds = [_some(meta[name], generator) for name in self.main]
        order = [o.name for o in self.forward.outputs if o.kind == "output"]

        def scalar(*args: Any, **kwargs: Any) -> Tensor:
            tensors = [x for x in pytree.tree_leaves(self.program(*args, **kwargs)) if isinstance(x, Tensor)]
            named = dict(zip(order, tensors, strict=True))
            parts = [(named[n] * u.to(named[n]).conj()).sum() for n, u in zip(self.main, seeds, strict=True)]
            return sum(parts[1:], parts[0]).real

        inputs = [i.name for i in self.forward.inputs if i.kind == "input"]
        leaves = [self.forward.calling.tensor_in[inputs.index(name)] for name in self.forward.wrt]
        self.drawn.put_back()
        forward = capture_for(scalar, tuple(self.args), dict(self.kwargs), leaves, concrete=True)
        inputs = [i.name for i in forward.inputs if i.kind == "input"]
        names = [inputs[forward.calling.tensor_in.index(leaf)] for leaf in leaves]
        joint = differentiate(forward, names)
        flat = [x.detach() for x in joint.bind(self.args, self.kwargs)]
        return Trial(scalar, self.args, self.kwargs, forward, joint, flat, self.drawn)


def compared(
    f: Callable[..., Any],
    call: tuple[tuple[Any, ...], dict[str, Any]],
    graph: Graph,
    program: Program,
    drawn: Generators,
    pushes: bool,
) -> None:
    """Compare ``program``, made of the ``graph`` of ``f``, with PyTorch on the arguments it was made for.

    Args:
        drawn: where the generators stood before the capture.
        pushes: it takes tangents.

    Raises:
        GradientMismatchError: the two differ by more than rounding.
    """
    with same_draws():
        now = Generators(f)
        try:
            trial = _trial(f, call, graph, program, drawn, pushes)
            if not all(map(has_data, trial.flat)):
                return
            try:
                theirs = trial.theirs()
            except Exception as error:
                if check_transforms.tell:
                    first = next(iter(str(error).splitlines()), "")
                    why = f"PyTorch cannot run it: {type(error).__name__}: {first}"
                    caution(f"a transform was not compared with torch.autograd: {why}")
                return
            if wrong := trial.wrong(trial.ours(), theirs):
                raise mismatch(wrong, trial.culprit(wrong, theirs), _ADVICE)
        finally:
            now.put_back()


def _trial(
    f: Callable[..., Any],
    call: tuple[tuple[Any, ...], dict[str, Any]],
    graph: Graph,
    program: Program,
    drawn: Generators,
    pushes: bool,
) -> _Trial:
    generator = torch.Generator().manual_seed(0)
    values = {i.name: n.meta["val"] for n, i in zip(graph.placeholders, graph.inputs, strict=True)}
    values |= {o.name: n.meta["val"] for n, o in zip(graph.results, graph.outputs, strict=True) if o.kind == "output"}
    late = [i.of for i in program.joint.inputs if i.kind == "cotangent"]
    ways = {name: _some(values[name], generator) for name in (program.names if pushes else program.main)}
    if not late:  # a gradient, not a product
        ways = {name: torch.ones_like(way) for name, way in ways.items()}
    flat = [x.detach() for x in program.joint.bind(*call, [ways[name] for name in late])]
    forward = replace(graph, wrt=tuple(program.names))
    return _Trial(f, *call, forward, program.joint, flat, drawn, main=program.main, ways=ways, pushes=pushes)


def _some(value: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of that geometry."""
    dtype = value.dtype if value.dtype.is_floating_point or value.dtype.is_complex else torch.float64
    numbers = torch.randn(value.shape, dtype=torch.promote_types(dtype, torch.float32), generator=generator)
    return numbers.to(value.device, dtype)

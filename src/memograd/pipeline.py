"""The stages in order: capture -> expand -> differentiate -> simplify -> plan. Each result is verified."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from math import inf
from typing import Any

from memograd import progress
from memograd.adjoint.derivation import differentiate as derive
from memograd.adjoint.expand import expand
from memograd.adjoint.selection import inputs_of, targets_of
from memograd.cautions import caution
from memograd.collector import no_collection
from memograd.errors import BackendError, BudgetInfeasibleError, MemogradError, PlanViolationError
from memograd.fuse.fuse import fuse
from memograd.graph.entries import OutputKind
from memograd.graph.graph import Graph
from memograd.lower.channels_last import channels_last, layouts
from memograd.lower.decompose import parts
from memograd.lower.lower import lower
from memograd.memory.plan import Plan
from memograd.simplify import PASSES, algebra, dead
from memograd.tracing.capture import trace
from memograd.tracing.under_way import looking_away


def _staged(name: str, stage: Callable[[], Graph], given: Graph | None = None) -> Graph:
    progress.say(f"{name} of {len(given.nodes):,} operators" if given else name)
    graph = stage()
    if graph is not given:  # which was verified when it was made
        graph.verify()
    return graph


def capture(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Graph:
    """The graph that ``f(*args, **kwargs)`` computes, without dead code.

    Args:
        f: an ``nn.Module`` or a function of tensors or pytrees of tensors.
        args, kwargs: example inputs. Those that require gradients can be differentiated; where none does, all
            floating-point ones can.

    Returns:
        A functional graph of ATen operators, to be called like ``f``, on arguments of these shapes, strides and dtypes.

    Raises:
        CaptureError: the program raised, its control flow depends on values, or an operator cannot be traced.
    """
    return capture_for(f, args, kwargs)


def capture_for(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wrt: Collection[int] | None = None,
    concrete: bool = False,
    united: bool = False,
    in_autograd: bool = False,
) -> Graph:
    """The same for callers that know which leaves of the arguments they will differentiate, or that use the graph for
    this one call (``concrete``), for calls in which the same tensors are one (``united``), or as a step of autograd's
    (``in_autograd``); see ``memograd.tracing.capture.trace``."""
    with nullcontext() if concrete else no_collection():  # a program that runs on values may leave much of them behind
        graph = _staged("capture", lambda: trace(f, args, kwargs, wrt, concrete, united, in_autograd))
        return _staged("dead", lambda: dead(graph), graph)


def differentiate(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    memoize: bool = True,
    of: str | None = None,
    cotangents: OutputKind | None = None,
    among: Collection[str] | None = None,
    limit: int = 100_000,
    keep_views: bool = False,
) -> Graph:
    """The graph that computes ``graph``'s results and the gradients of its loss.

    Args:
        wrt: names of inputs (parameters, arguments); default: all parameters that require gradients, else all
            floating-point arguments.
        memoize: remember adjoints. False runs the naive recursion, once for every path, and
            simplifies nothing, so that the repeated work stays to be seen.
        of: name of the result to differentiate; default the first, which must be a scalar (a loss).
        cotangents: instead of 1 for a scalar loss, take the adjoints of all results of this kind as further
            arguments.
        among: those of them with these names only.
        limit: most products the naive recursion may form.
        keep_views: leave views that cancel each other where they are. At each of them a derivative of this graph
            adds up what comes back, as autograd does.

    Returns:
        A graph with outputs of kind ``gradient``; ``graph.unused`` names the inputs the loss does not depend on.

    Raises:
        GraphError: the loss is not a scalar, or a name is unknown.
        MissingRuleError, NotDifferentiableError, OpaqueBackwardError: no derivative is known on the path.
        ProductLimitError: the naive recursion would exceed ``limit``.
    """
    with looking_away(), no_collection():
        names = inputs_of(graph, wrt)
        targets = [graph.results[i] for i in targets_of(graph, of, cotangents, among)]
        expanded = _staged("expand", lambda: expand(graph, names, targets), graph)
        joint = _staged(
            "differentiate",
            lambda: derive(expanded, names, memoize, of, cotangents, among, limit),
            expanded,
        )
        return simplify(joint, keep_views) if memoize else joint


def simplify(graph: Graph, keep_views: bool = False) -> Graph:
    """Every simplification once."""
    for one in PASSES:
        stage = partial(one, graph, keep_views=keep_views) if one is algebra else partial(one, graph)
        graph = _staged(one.__name__, stage, graph)
    return graph


def lowered(graph: Graph) -> Graph:
    """What a backend runs: ``graph`` without marks, see ``memograd.lower.lower``."""
    with no_collection():
        return _staged("lower", lambda: lower(graph), graph)


def plan(graph: Graph, memory_budget: int | str | Plan, at_least: int = 0, fused: bool = False) -> Plan:
    """A schedule of ``graph`` within ``memory_budget``; see ``memograd.memory.planner`` for arguments and errors.
    ``fused``: of compiled kernels rather than of PyTorch's single operators, where that can be trusted and fits."""
    with progress.shown():
        return _planned(lowered(graph), memory_budget, at_least, fused)


def _planned(bare: Graph, memory_budget: int | str | Plan, at_least: int, fused: bool) -> Plan:
    from memograd.memory.planner import make_plan  # it loads the compiled search: only who plans waits for that

    progress.say(f"plan of {len(bare.nodes):,} operators")
    refusals: list[MemogradError] = []
    for last in layouts(bare) if fused else ():
        try:
            return make_plan(_fused(bare, last), memory_budget, at_least)
        except BudgetInfeasibleError as error:
            refusals.append(error)
            memory_budget = error.budget_bytes  # a share is one of the first layout's peak
        except BackendError as error:
            refusals.append(error)
        except PlanViolationError as error:
            if not isinstance(memory_budget, Plan):
                raise
            refusals.append(error)  # it was made for another layout, or for single operators
    try:
        schedule = make_plan(bare, memory_budget, at_least)
    except (BudgetInfeasibleError, PlanViolationError) as error:
        raise min([error, *refusals], key=lambda e: getattr(e, "floor_bytes", inf)) from None
    if refusals and not isinstance(memory_budget, Plan):
        caution(f"planned operator by operator: {refusals[0]}")
    return schedule


def _fused(bare: Graph, last: bool) -> Graph:
    """``bare`` taken apart and put together as kernels; ``last``: with the channels of images last in memory."""
    laid = _staged("channels last", lambda: channels_last(bare), bare) if last else bare
    apart = _staged("decompose", lambda: parts(laid), laid)
    return _staged("fuse", lambda: fuse(apart), apart)

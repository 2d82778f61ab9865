"""Operators that need a word: those without a rule, those that draw random numbers, backwards that somebody wrote."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

from memograd import ops
from memograd.adjoint.expand import expand
from memograd.adjoint.recursion import entry_of
from memograd.errors import MissingRuleError, NotDifferentiableError
from memograd.inspection.program import Inspected, name_of
from memograd.inspection.report import Finding
from memograd.rules.registry import lookup
from memograd.tracing.functions import Application


def missing_rules(inspected: Inspected) -> list[Finding]:
    """Every operator on the way of an adjoint for which the table has no rule, or a refusal."""
    expanded = expand(inspected.graph, inspected.wrt, [inspected.loss])
    inside = Inspected(inspected.program, expanded, inspected.wrt)
    missing: dict[Any, Finding] = {}
    for node in expanded.nodes:
        if node not in inside.active or node.target is operator.getitem:
            continue
        try:
            entry_of(node)
        except MissingRuleError:
            what = f"the derivative table has no rule for {node.target}"
            advice = (
                f"Register one: @memograd.rule(torch.ops.{node.target}) def op(adjoint, y, *args, **kwargs): return "
                "one adjoint for each argument"
            )
            finding = inspected.finding("error", "missing rule", node, what, advice)
        except NotDifferentiableError as error:
            finding = inspected.finding("error", "missing rule", node, str(error))
        else:
            continue
        missing.setdefault((finding.what, finding.source, finding.line, finding.module), finding)
    return list(missing.values())


def random_operators(inspected: Inspected) -> list[Finding]:
    """One note about all that draws random numbers."""
    drawing = [n for n in inspected.graph.nodes if ops.is_random(n)]
    if not drawing:
        return []
    counted = Counter(f"{name_of(n)} at {n.meta.get('source', '?')}" for n in drawing)
    some = ", ".join(f"{what}{f' ({n} times)' if n > 1 else ''}" for what, n in counted.most_common(4))
    more = f" and {len(counted) - 4} more" if len(counted) > 4 else ""
    what = (
        f"{len(drawing)} operator{'s draw' if len(drawing) > 1 else ' draws'} random numbers: {some}{more}. The same "
        "seed gives the numbers of plain PyTorch, and what is computed again draws them again"
    )
    return [Finding("note", "random numbers", what)]


def functions(inspected: Inspected) -> list[Finding]:
    """A note about each ``autograd.Function``: is its backward used?"""
    findings: dict[Any, Finding] = {}
    for node in inspected.graph.nodes:
        call = node.target
        if isinstance(call, Application):
            finding = inspected.finding("note", "custom backward", node, _about(call, node in inspected.active))
            findings.setdefault((finding.what, finding.source, finding.module), finding)
    return list(findings.values())


def _about(call: Application, active: bool) -> str:
    if not active:
        return f"{call.name} has a backward of its own ({call.source}), to which no gradient comes"
    if call.arguments is not None:
        entry = lookup(call.cls)
        at = f" at {entry.file}" if entry is not None else ""
        return f"the backward of {call.name} ({call.source}) is not used: the rule{at} goes before it"
    once = "; second derivatives through it are refused, as PyTorch does (@once_differentiable)" if call.once else ""
    return f"the backward of {call.name} ({call.source}) is traced and used as it is{once}"

"""Parameters that get no gradient, and why: who stopped it, by which line, or that nobody asked for one.

It is read off the graph, before any number is computed: where adjoints end (``inspection/stops.py``), what the loss
does not depend on, what was turned into a Python number on the way, what requires a gradient and is no parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from torch import fx, nn

from memograd import ops
from memograd.doctor.patient import known, translated
from memograd.doctor.report import Finding, Where
from memograd.findings import listed
from memograd.graph.graph import Graph
from memograd.inspection import stops
from memograd.inspection.parameters import parameters
from memograd.inspection.program import Inspected, all_of, read
from memograd.inspection.report import Finding as Look
from memograd.looks import look

NOTHING = "nothing to differentiate"


def stopped(inspected: Inspected, unreached: Collection[str]) -> list[Finding]:
    """Every parameter that gets none, by the place that is to blame. An error where none is left that gets one.

    ``unreached``: the inputs to which no adjoint came.
    """
    looks = [*stops.stopped(inspected), *stops.without(inspected, unreached)]
    findings = [_said(f) for f in looks if f.severity != "note"]
    reads = _values_read(inspected)
    if reads and any(f.kind == "unused parameter" for f in findings):
        findings = [f for f in findings if f.kind != "unused parameter"] + reads
    findings += _made_anew(inspected)
    if not inspected.flows[inspected.loss]:
        what = "no gradient comes to any parameter: after backward() all of them have .grad None, or it raises"
        fix = "Mend what is named below" if findings else "Is this the right loss? It depends on no parameter"
        findings.insert(0, Finding("error", NOTHING, what, _place(inspected, inspected.loss), (), fix))
        findings = [replace(f, severity="error") for f in findings]
    return findings


def frozen(f: Callable[..., object], asking: bool) -> list[Finding]:
    """Parameters that are frozen or share memory; ``asking``: whether an argument asks for a gradient."""
    looks = [translated(x) for x in parameters(f) if x.kind != "tied parameters"]
    if isinstance(f, nn.Module) and not asking:
        all_of_it = list(f.parameters())
        if not all_of_it and not _hidden_in(f):
            what = f"{type(f).__name__} has no parameters: there is nothing to train"
            return [Finding("error", NOTHING, what, fix="nn.Parameter(...) for tensors, nn.Module for layers")]
        if all_of_it and not any(p.requires_grad for p in all_of_it):
            what = f"all {len(all_of_it)} parameters are frozen (requires_grad is False): nothing is trained"
            fix = "model.requires_grad_(True), or unfreeze the layers to be trained before the optimizer is made"
            names = tuple(n for n, _ in f.named_parameters())
            return [Finding("error", NOTHING, what, fix=fix, names=names)]
    return looks


def unasked(f: Callable[..., object]) -> list[Finding]:
    """Nothing asks for a gradient: a function of arguments, or a model without parameters."""
    what = "no parameter requires a gradient, and no argument does"
    if isinstance(f, nn.Module):
        hidden = _hidden_in(f)
        if hidden:
            what += f"; {listed(hidden)} holds modules or tensors that the model does not know as its own"
        fix = "Keep layers in nn.ModuleList and tensors in nn.Parameter" if hidden else "Give it parameters"
        return [Finding("error", NOTHING, what, fix=fix, names=tuple(hidden))]
    return [Finding("error", NOTHING, what, fix="x.requires_grad_() for the argument to be differentiated")]


def outsiders(inspected: Inspected, graph: Graph, held: set[int] | None) -> list[Finding]:
    """What requires a gradient and gets one, and is no parameter of the model: layers in a plain list, a tensor that
    is an attribute. ``model.parameters()`` does not have it, so no optimizer moves it.

    ``held``: ids of what the optimizer holds, if one was given.
    """
    program = inspected.program
    if not isinstance(program, nn.Module):
        return []
    own = {id(p) for p in program.parameters()}
    by_line: dict[tuple[str, str], list[tuple[fx.Node, Any]]] = {}
    for entry, node in zip(graph.inputs, graph.placeholders, strict=True):
        tensor = entry.bound
        unknown = entry.kind == "parameter" and entry.name in inspected.wrt and id(tensor) not in own
        if unknown and tensor is not None and not (held and id(tensor) in held):
            user = next((u for u in node.users if u.meta.get("source")), node)
            place = (user.meta.get("source", ""), user.meta.get("line", ""))
            by_line.setdefault(place, []).append((user, tensor))
    findings = []
    for users in by_line.values():
        shapes = ", ".join(str(tuple(t.shape)) for _, t in users[:4])
        one = len(users) == 1
        what = (
            f"{len(users)} tensor{'' if one else 's'} of shape {shapes} {'is' if one else 'are'} used here and "
            f"require{'s' if one else ''} a gradient, but {'is' if one else 'are'} not in model.parameters()"
        )
        evidence = "the gradient flows, and no optimizer built with model.parameters() uses it; .to() and "
        evidence += "state_dict() leave it out too"
        fix = "nn.ModuleList([...]) for layers in a list, nn.ModuleDict for a dict, nn.Parameter(tensor) for a tensor"
        where = _place(inspected, users[0][0])
        findings.append(Finding("error", "not a parameter", what, where, (evidence,), fix))
    return findings


def beforehand(inspected: Inspected, graph: Graph) -> list[Finding]:
    """Tensors that were computed from parameters before the program ran, and parameters that it overwrites."""
    findings = []
    for entry, node in zip(graph.inputs, graph.placeholders, strict=True):
        tensor = entry.bound
        if tensor is None or tensor.grad_fn is None or node not in inspected.needed:
            continue
        user = next((u for u in node.users if u.meta.get("source")), node)
        what = "this reads a tensor that was computed before the model ran (in __init__): it stays what it was then"
        evidence = (f"it comes from {tensor.grad_fn.name()}, and a second backward through that is an error",)
        fix = "Compute it in forward, from the nn.Parameter itself; .to(device) of a parameter is a computation, too"
        findings.append(Finding("error", "computed beforehand", what, _place(inspected, user), evidence, fix))
    trained = {name: 1 << k for k, name in enumerate(inspected.wrt)}
    for output, node in zip(graph.outputs, graph.results, strict=True):
        if output.kind != "mutation" or output.name not in trained:
            continue
        new: Any = node.args[1] if node.target in ops.WRITES else node
        if not inspected.depends.get(new, 0) & trained[output.name]:
            name = inspected.named(output.name)
            what = f"the model overwrites its parameter {name!r} each time it runs: what was learnt is thrown away"
            fix = "Write it once, in __init__ (with torch.no_grad(): ...)"
            findings.append(Finding("error", "overwritten", what, _place(inspected, node), (), fix, "", (name,)))
    return findings


def _hidden_in(f: nn.Module) -> list[str]:
    """Attributes that are lists or dicts with modules in them."""
    attributes = []
    for path, module in f.named_modules():
        for name, value in vars(module).items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            if not name.startswith("_") and any(isinstance(x, nn.Module) for x in items):
                attributes.append(f"{path}.{name}".lstrip("."))
    return attributes


def _place(inspected: Inspected, node: fx.Node) -> Where:
    meta = node.meta
    target = str(node.target) if node.op == "call_function" else ""
    module, source = inspected.named(meta.get("module") or ""), known(meta.get("source"))
    return Where(module, source, meta.get("line") or "", target)


_KINDS = {"stopped gradient": "no gradient", "unused parameter": "unused parameter"}


def _said(finding: Look) -> Finding:
    return translated(finding, kind=_KINDS.get(finding.kind, finding.kind))


def _values_read(inspected: Inspected) -> list[Finding]:
    """Where a value that depends on parameters becomes a Python number or an array."""
    reached = inspected.flows[inspected.loss]
    lines: dict[Any, Finding] = {}
    for node in inspected.graph.nodes:
        if node.target is not look:
            continue
        operands: list[fx.Node] = []
        fx.map_arg(node.args, lambda n, into=operands: into.append(n) or n)
        names = inspected.names(all_of(inspected.depends, operands) & ~reached)
        if names:
            what = f"a value is read here (.item(), float(), .tolist(), an if); {listed(names)} get no gradient"
            evidence = ("what is computed from a Python number has no history, and the loss has no other way to them",)
            fix = "Stay with tensors: leave .item(), float(), .tolist(), .numpy() out of what the loss is made of"
            finding = Finding("warning", "no gradient", what, _place(inspected, node), evidence, fix, "", names)
            lines.setdefault((node.meta.get("source"), node.meta.get("line")), finding)
    return list(lines.values())


def _is_new_parameter(node: fx.Node) -> bool:
    """Whether a module is made in forward, whose weights these are: a tensor out of nothing, detached twice, as
    ``nn.Parameter`` does it, and written to."""
    for _ in range(2):
        if node.target is not ops.stop:
            return False
        node = node.all_input_nodes[0]
    return node.op == "call_function" and not node.all_input_nodes


def _made_anew(inspected: Inspected) -> list[Finding]:
    """``nn.Parameter(...)``, a layer, or ``requires_grad=True`` inside forward: a new leaf at each call, which nobody
    trains."""
    lines: dict[Any, Finding] = {}
    for node in inspected.graph.nodes:
        text = node.meta.get("line") or ""
        written_out = "Parameter(" in text or "requires_grad=True" in text or "requires_grad_(" in text
        if not (written_out or _is_new_parameter(node)) or node not in inspected.needed or read(node) == ():
            continue
        if not all_of(inspected.depends, (node,)) and node.target in ops.MARKS:
            what = "this makes a new tensor that requires a gradient each time it runs: its gradient is thrown away"
            evidence = ("an optimizer holds the tensors there were when it was made; this one lives for one call",)
            fix = "Make it once, in __init__: self.weight = nn.Parameter(...), self.layer = nn.Linear(...)"
            finding = Finding("warning", "made anew in forward", what, _place(inspected, node), evidence, fix)
            lines.setdefault((node.meta.get("source"), text), finding)
    return list(lines.values())

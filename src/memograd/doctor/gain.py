"""Vanishing and exploding gradients, as the product of factors that it is: which operator's factor does it.

From a layer to the loss one follows, at each value, the operator that contributes most to its adjoint. Along that way
each operator has a factor, what it passes back over what reaches it, and the norm of the layer's adjoint is the product
of them all. The operator whose factors, all its calls together, make most of the product is the one to name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from memograd.doctor.patient import Patient, name_of, norm
from memograd.doctor.report import Finding
from memograd.findings import Severity

# From the last layer of a way to its first one. Where the product of the factors is 1 on average, it stays within a
# factor of some tens over any depth (Schoenholz et al. 2017, Deep Information Propagation; Xiao et al. 2018 train
# 10,000 layers at that point), and pooling over 7 x 7 costs a factor of 7 once. 1e-5 is beyond all of that, and an
# update there is lost in the last three digits of float32 beside one of the last layer's; 1e-8 is Adam's epsilon and
# below the rounding of float32 (6e-8), so nothing can bring it back.
VANISHED, LOST = 1e-5, 1e-8
# The other way round Pascanu, Mikolov & Bengio 2013 clip at norms of tens; float16 ends at 65504, and 1e8 is its whole
# range from the smallest number to the largest.
EXPLODED, BEYOND = 1e4, 1e8
_DEPTH = 3  # layers on the way, below which a factor is no chain


@dataclass(frozen=True)
class Link:
    """One factor: the adjoint of ``v`` is ``factor`` times that of ``u``, which is one of its consumers."""

    u: fx.Node
    v: fx.Node
    factor: float


def way(patient: Patient, v: fx.Node) -> list[Link]:
    """From ``v`` to the loss, at each value by the largest contribution; the link at the loss comes last."""
    links = []
    while v is not patient.loss:
        consumers = patient.consumers(v)
        if not consumers:
            break
        u = max(consumers, key=lambda c: patient.share(c, v))
        reaches, here = norm(patient.table.get(u)), norm(patient.table[v])
        if not (reaches and here and math.isfinite(reaches) and math.isfinite(here)):
            break
        links.append(Link(u, v, here / reaches))
        v = u
    return links


def gains(patient: Patient) -> dict[fx.Node, float]:
    """The norm of the adjoint at each layer, in order of computation."""
    return {u: norm(patient.table[u]) for u in patient.layers}


def gain(patient: Patient) -> list[Finding]:
    """At most one finding of each sort: the layer with the smallest gain, and the one with the largest."""
    norms = gains(patient)
    layers = set(norms)
    least: tuple[float, list[Link]] = (1.0, [])
    most: tuple[float, list[Link]] = (1.0, [])
    for u, size in sorted(norms.items(), key=lambda pair: pair[1])[:: max(1, len(norms) - 1)]:
        links = way(patient, u) if size > 0 and math.isfinite(size) else []
        on_it = [k for k, link in enumerate(links) if link.v in layers]
        if len(on_it) < _DEPTH or not links or links[-1].u is not patient.loss:
            continue
        chain = links[: on_it[-1]]  # up to the layer nearest to the loss
        product = math.exp(sum(math.log(link.factor) for link in chain))
        least = min(least, (product, chain), key=lambda pair: pair[0])
        most = max(most, (product, chain), key=lambda pair: pair[0])
    findings = []
    if least[0] < VANISHED:
        severity = "error" if least[0] < LOST and not _in_time(patient, least[1]) else "warning"
        findings.append(_finding(patient, severity, "vanishing gradient", *least))
    if most[0] > EXPLODED:
        severity = "error" if most[0] > BEYOND else "warning"
        findings.append(_finding(patient, severity, "exploding gradient", *most))
    return findings


def _in_time(patient: Patient, chain: Sequence[Link]) -> bool:
    """Whether one weight is applied again and again: it has a gradient from the last times too."""
    weights = [patient.weight_of(link.v) for link in chain if link.v in set(patient.layers)]
    return len(set(weights)) <= len(weights) // 2


@dataclass(frozen=True)
class Factor:
    """All calls of an operator at one line."""

    node: fx.Node
    calls: int
    log: float

    @property
    def product(self) -> float:
        return math.exp(self.log)

    @property
    def each(self) -> float:
        return math.exp(self.log / self.calls)


def factors(chain: Sequence[Link]) -> list[Factor]:
    """The factors of a chain by operator (of one kind, in one kind of place), the smallest product first."""
    groups: dict[str, list[Link]] = {}
    for link in chain:
        groups.setdefault(name_of(link.u), []).append(link)
    lines = []
    for links in groups.values():
        logs = [math.log(link.factor) for link in links]
        worst = min(links, key=lambda link: link.factor)
        lines.append(Factor(worst.u, len(links), sum(logs)))
    return sorted(lines, key=lambda f: f.log)


def _finding(patient: Patient, severity: Severity, kind: str, product: float, chain: Sequence[Link]) -> Finding:
    down = product < 1
    by_kind = factors(chain)
    first = by_kind[0] if down else by_kind[-1]
    guilty = [link for link in chain if name_of(link.u) == name_of(first.node)]
    node = (min if down else max)(guilty, key=lambda link: link.factor).u
    start, end = patient.layer(chain[0].v), patient.layer(chain[-1].u)
    layers = sum(link.v in set(patient.layers) for link in chain) + 1
    norms = f"{norm(patient.table[chain[-1].u]):.2g} at {end!r} and {norm(patient.table[chain[0].v]):.2g} at {start!r}"
    what = f"over {layers} layers the gradient {'shrinks' if down else 'grows'} by a factor of {product:.1e}"
    told = sorted(by_kind, key=lambda f: f.log, reverse=not down)[:4]
    shown = [f for f in told if abs(f.log) > 0.05]
    evidence = [f"the norm of the adjoint is {norms}"]
    evidence += [f"{name_of(f.node)}: {f.each:.3g} each time, {f.calls} times: {f.product:.1e}" for f in shown]
    fix = _fix(node, down)
    numbers = {
        "product": product,
        "factors": [{"operator": name_of(f.node), "calls": f.calls, "each": f.each} for f in by_kind],
    }
    return patient.finding(severity, kind, what, node, "backward", evidence, fix, (), **numbers)


_SQUASHES = {"sigmoid", "tanh", "hardsigmoid", "_softmax"}


def _fix(node: fx.Node, down: bool) -> str:
    if down and name_of(node) in _SQUASHES:
        steepest = "at most 0.25" if "sigmoid" in name_of(node) else "at most 1, and far less at its limits"
        return (
            f"The slope of {name_of(node).strip('_')} is {steepest}: nn.ReLU() or nn.GELU(), nn.init.kaiming_normal_;\n"
            "or residual connections (x + layer(x)), or a normalisation (nn.LayerNorm, nn.BatchNorm1d)"
        )
    if down:
        return (
            "Larger weights, so that layers keep the size of what passes (nn.init.kaiming_normal_, orthogonal_);\n"
            "residual connections (x + layer(x)), or a normalisation; in recurrent networks nn.LSTM or nn.GRU"
        )
    return (
        "Smaller weights (nn.init.xavier_uniform_, orthogonal_), a normalisation (nn.LayerNorm), or residual branches\n"
        "scaled by 1/sqrt(depth); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) keeps steps small meanwhile"
    )

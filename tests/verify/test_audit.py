"""The derivative table against the one PyTorch ships."""

import pytest
import torch

from memograd.rules.registry import is_constant_result, lookup
from memograd.tracing.mutation import functional_twin
from memograd.verify import audit

pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def findings():
    return audit.audit()


def test_every_core_operator_has_an_entry(findings):
    """Core: PyTorch's own tag for the set that every program can be reduced to."""
    core = [f for f in findings if f.core]
    assert [str(f.target) for f in core if lookup(f.target) is None] == []
    with_formula = {target for target, line in audit.table() if torch.Tag.core in target.tags and audit.formulas(line)}
    if torch.__version__.startswith("2.13"):  # counted in this wheel's file
        assert len(core) == 155 and len({f.target.overloadpacket for f in core}) == 131
        assert len(with_formula) == 138
    constants = {t for t in with_formula if (e := lookup(t)) and e.kind == "constant"}
    assert not constants, "PyTorch has a formula where we call the result a constant"


def test_what_is_missing_is_what_the_list_says(findings):
    with_formula = {target for target, _ in audit.table()}  # not every PyTorch has one for all that are listed
    listed = {audit.operator(name) for names in audit.MISSING.values() for name in names.split()} & with_formula
    assert {f.target for f in findings if f.status == "missing"} == listed
    assert not [str(f.target) for f in findings if f.why == audit.UNEXPLAINED]


def test_a_rule_that_goes_away_is_found(monkeypatch):
    monkeypatch.setattr(audit, "lookup", lambda target: None)
    lost = {str(f.target): f.why for f in audit.audit() if f.status == "missing"}
    assert lost["aten.sin.default"] == audit.UNEXPLAINED


def test_constants_are_constants_to_autograd_too(findings):
    """Where we let no adjoint flow, PyTorch has no formula either, or one that is zero."""
    lines = dict(audit.table())
    for finding in findings:
        if finding.why == "constant":
            formulas = audit.formulas(lines[finding.target])
            assert all("zeros_like" in f for f in formulas), f"{finding.target}: {formulas}"


def test_constant_results_are_pytorchs():
    """Of every operator with several results that we differentiate: those that autograd calls constants, and no other.
    What stands in a graph for an operator that writes has those of the operator, and constants for what it writes."""
    table = {target: line for target, line in audit.table() if len(target._schema.returns) > 1}
    different = {}
    for target, line in table.items():
        entry = lookup(target)
        if entry is not None and entry.kind in ("rule", "expansion", "zero"):
            theirs = audit.differentiable(target, line)
            ours = [not is_constant_result(target, k) for k in range(len(theirs))]
            if ours != theirs:
                different[str(target)] = (ours, theirs)
    assert not different
    for func in (f for f in table if f._schema.is_mutable):
        theirs = audit.differentiable(func, table[func])
        assert [not is_constant_result(functional_twin(func), k) for k in range(len(theirs))] == theirs, func


def test_a_result_that_pytorch_marks_is_read_as_marked():
    norm, svd = torch.ops.aten.native_layer_norm.default, torch.ops.aten._linalg_svd.default
    lines = dict(audit.table())
    assert audit.differentiable(norm, lines[norm]) == [True, False, False]
    assert audit.differentiable(svd, lines[svd]) == [True, True, True]
    lu = torch.ops.aten.linalg_lu.default
    assert audit.differentiable(lu, lines[lu]) == [False, True, True]


def test_rewritten_operators_arrive_as_others(findings):
    """The composite ones in a graph: none of them is there."""
    import memograd as mg

    x = torch.rand(1, 3, 4, 4)
    graph = mg.capture(
        lambda x, w: torch.nn.functional.linear(torch.max_pool2d(x, 2).matmul(w), w).chunk(2), x, torch.rand(2, 2)
    )
    rewritten = {f.target for f in findings if f.status == "rewritten"}
    assert not {n.target for n in graph.nodes} & rewritten


def test_formulas_of_a_line():
    line = {"name": "f(Tensor x, Tensor y, Tensor z) -> Tensor", "x": "grad", "y": "non_differentiable"}
    assert audit.formulas(line) == ["grad"]
    assert audit.formulas({**line, "x": 'not_implemented("f")', "result": "auto_linear"}) == []
    assert audit.formulas({"name": "f", "dispatch": {"Default": {"x": "grad"}, "Other": {"x": "2 * grad"}}}) == [
        "grad",
        "2 * grad",
    ]

"""PyTorch's own test database against our derivatives, and that every rule of the table is met somewhere.

The whole database is slow (``make test-all``); a seeded sample of both orders runs always. Rules that some samples of
every operator do not reach are listed in ``unswept.json`` with the tests that use them instead, and those are run under
the same watch.
"""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from memograd import rules as _rules  # noqa: F401
from memograd._torch import is_composite
from memograd.errors import CaptureError
from memograd.pipeline import capture
from memograd.rules import registry
from memograd.verify.measured import Measured, add_up, columns, load, save, watch
from memograd.verify.sweep import compare, entries, sweep

TESTS = Path(__file__).parent.parent
ELSEWHERE = json.loads((TESTS / "unswept.json").read_text(encoding="utf-8"))


def tallies(dtype=torch.float64, order=1, limit=None, operators=None):
    """Of ``operators`` that a seed draws; of all without a number."""
    pytest.importorskip("expecttest")
    drawn = entries(dtype, order)
    if operators is not None:
        drawn = random.Random(order).sample(drawn, operators)
    found = list(sweep(drawn, dtype, order, limit))
    wrong = [str(t) for t in found if t.verdict == "wrong"]
    assert not wrong, "\n".join(wrong)
    return found


def test_sample_of_the_database():
    sample = tallies(limit=2, operators=70)
    assert Counter(t.verdict for t in sample)["pass"] >= 66
    assert sum(t.passed for t in sample) >= 110


def test_sample_of_second_derivatives():
    """Half of the entries is linear, so that autograd has no second derivative to compare with."""
    assert Counter(t.verdict for t in tallies(order=2, limit=1, operators=60))["pass"] >= 22


@pytest.mark.slow
def test_every_rule_is_met():
    first, second = tallies(limit=4), tallies(order=2, limit=1)
    assert Counter(t.verdict for t in first)["pass"] >= 530 and sum(t.passed for t in first) >= 1500
    assert Counter(t.verdict for t in second)["pass"] >= 260
    met = add_up(first, "first") + add_up(second, "second") + add_up(second, "of a derivative")
    named = {name for names in ELSEWHERE["tests"].values() for name in names} | set(ELSEWHERE["autograd refuses"])
    table = [e.target for e in registry.entries() if e.kind in ("rule", "expansion", "zero")]
    unmet = [
        t for t in table if t not in met and str(t) not in named and getattr(t, "namespace", "") in ("aten", "memograd")
    ]
    assert [str(t) for t in unmet if not (is_composite(t) or needs_a_device(t) or writes(t))] == []


def needs_a_device(target):
    """No kernel for CPUs."""
    keys = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return not any(torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), key) for key in keys)


def writes(target):
    """It is entered with its functional twin, which is what stands in a graph."""
    return target._schema.is_mutable


class Recorder:
    """A plugin of pytest: which rules the tests use."""

    def __init__(self):
        self.used = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item):
        with watch() as noted:
            result = yield
        if result.excinfo is None:
            self.used |= {str(t) for t in noted.first | noted.second}


@pytest.mark.slow
def test_the_tests_named_for_the_others_do_use_them():
    recorder = Recorder()
    ended = pytest.main(
        [*(str(TESTS / name) for name in ELSEWHERE["tests"]), "-q", "-p", "no:cacheprovider"],
        plugins=[recorder],
    )
    assert ended == pytest.ExitCode.OK  # a name that has moved keeps all of them from running
    named = {name for names in ELSEWHERE["tests"].values() for name in names}
    table = {str(e.target) for e in registry.entries()}  # without those that this PyTorch does not have
    assert (named & table) - recorder.used == set()


@pytest.mark.parametrize("name", ELSEWHERE["autograd refuses"])
def test_these_never_reach_a_graph(name):
    """PyTorch raises when they are called on what requires a gradient, as the tensors of a capture do."""
    packet, overload = name.removeprefix("aten.").split(".")
    arguments = {
        "_conj_copy": lambda: (torch.ones(2, dtype=torch.complex128),),
        "view_as_complex_copy": lambda: (torch.ones(2, 2),),
        "_embedding_bag_forward_only": lambda: (torch.ones(2, 2), torch.tensor([0]), torch.tensor([0])),
        "slice_inverse": lambda: (torch.ones(2), torch.ones(2)),
    }[packet]()
    with pytest.raises(CaptureError if packet == "slice_inverse" else RuntimeError):
        capture(getattr(getattr(torch.ops.aten, packet), overload), *arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_a_wrong_rule_is_wrong_in_the_sweep(monkeypatch, dtype):
    pytest.importorskip("expecttest")
    sine = torch.ops.aten.sin.default
    wrong = registry.Entry(sine, "rule", lambda adjoint, y, x: adjoint * x.sin(), "", "", "")
    monkeypatch.setitem(registry._TABLE, sine, wrong)
    (tally,) = sweep([e for e in entries() if e.name == "sin"], dtype, limit=1)
    assert tally.verdict == "wrong" and tally.wrong == 1 and not tally.used


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_finite_differences_decide_where_autograd_is_mistaken(dtype):
    """It passes a gradient to elements that ``as_strided_scatter`` overwrites."""
    pytest.importorskip("expecttest")
    (tally,) = sweep([e for e in entries() if e.name == "as_strided_scatter"], dtype)
    assert tally.verdict == "pass" and tally.disputed == tally.passed


def test_compare():
    x = torch.ones(2, dtype=torch.float64)
    assert compare([x], [x], [x], 1e-8) is None
    assert "differs by up to 1e-06" in (compare([x + 1e-6], [x], [x], 1e-8) or "")
    assert "float32" in (compare([x.float()], [x], [x], 1e-8) or "")
    single = x.float()  # its gradient can be no more precise, whatever the other arguments are
    assert compare([single + 1e-6], [single], [single], 1e-8) is None


def test_measured_counts(tmp_path):
    """The columns of a run are replaced, and what is saved is what is loaded."""
    found = list(sweep([e for e in entries() if e.name == "sigmoid"], order=2, limit=2))
    sigmoid, backward = torch.ops.aten.sigmoid.default, torch.ops.aten.sigmoid_backward.default
    measured = Measured()
    for column in columns(2, torch.float64):
        measured.put(column, add_up(found, column), {"samples": 2})
    save(measured, tmp_path / "measured.json")
    again = load(tmp_path / "measured.json")
    assert again == measured
    assert again.status(sigmoid)["second"] == 2 and again.status(backward)["second"] == 0
    assert again.status(backward)["first"] == 2 and again.status(torch.ops.aten.sin.default)["first"] == 0
    again.put("second", {}, {"samples": 0})
    assert again.status(sigmoid)["second"] == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype, order", [(torch.float64, 1), (torch.float64, 2), (torch.complex128, 1)], ids=str)
def test_whole_database(dtype, order):
    passing = Counter(t.verdict for t in tallies(dtype, order))["pass"]
    assert passing >= {(torch.float64, 1): 530, (torch.float64, 2): 260, (torch.complex128, 1): 320}[dtype, order]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sample_in_lower_precision(dtype):
    assert Counter(t.verdict for t in tallies(dtype, limit=3))["pass"] >= 440


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex128], ids=str)
def test_what_kernels_accept_is_captured(dtype):
    """Shape functions of PyTorch that know fewer dtypes than the kernels would be met here; what is refused in float64
    too has other reasons (``as_strided`` to memory around the view that is passed in)."""
    refused = {t.name: t for t in tallies(dtype, limit=1) if t.refused and "sparse" not in t.name}
    again = [e for e in entries(torch.float64) if any(f"{name}.".startswith(f"{e.name}.") for name in refused)]
    anyway = {t.name for t in sweep(again, torch.float64, 1, 1) if t.refused}
    assert not refused.keys() - anyway, "\n".join(map(str, refused.values()))

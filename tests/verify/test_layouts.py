"""PyTorch's databases of operators and modules on tensors that lie in memory in every way, and their adjoints too."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from memograd import capture
from memograd.rules import registry
from memograd.tracing import layouts, shapes_seen
from memograd.transforms.check import check_transforms
from memograd.verify import sweep as operators
from memograd.verify import sweep_modules as modules
from memograd.verify.layouts import ADJOINTS, LAYOUTS, check, lies_alike, sweep, sweep_modules, unlike

pytest.importorskip("expecttest")


def failures(tallies: Any) -> tuple[int, list[str]]:
    """How many passed, and what did not."""
    found = list(tallies)
    return sum(t.passed for t in found), [f"{t.name}: {r}" for t in found if t.wrong or t.refused for r in t.reasons]


def dense(dtype: torch.dtype = torch.float64, order: int = 1) -> list[Any]:
    return [e for e in operators.entries(dtype, order) if "sparse" not in e.name]


def test_a_sample_of_operators() -> None:
    entries = random.Random(2).sample(dense(), 14)
    passed, failed = failures(sweep(entries, limit=1, forms=2))
    assert not failed, "\n".join(failed)
    assert passed > 17


def test_a_sample_of_modules() -> None:
    entries = random.Random(2).sample(modules.entries(), 7)
    passed, failed = failures(sweep_modules(entries, limit=1, forms=2))
    assert not failed, "\n".join(failed)
    assert passed > 10


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128], ids=str)
def test_operators(dtype: torch.dtype) -> None:
    passed, failed = failures(sweep(dense(dtype), dtype, limit=6, forms=6))
    assert not failed, "\n".join(failed)
    assert passed > 1700


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_second_derivatives() -> None:
    passed, failed = failures(sweep(dense(order=2), limit=2, forms=3, order=2))
    assert not failed, "\n".join(failed)
    assert passed > 170


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_modules() -> None:
    passed, failed = failures(sweep_modules(modules.entries(), limit=3, forms=6))
    assert not failed, "\n".join(failed)
    assert passed > 1000


def test_a_wrong_stride_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_EVERYWHERE", {})
    monkeypatch.setattr(shapes_seen, "_ANSWERS", {})
    (tally,) = sweep([e for e in operators.entries() if e.name == "nn.functional.mse_loss"], limit=2)
    assert tally.wrong and "STRIDES aten.mse_loss_backward" in str(tally)


def test_strides_of_a_transform_are_compared_unless_its_operand_has_equal_ones() -> None:
    """Which of them comes first is up to the sort of the library."""
    x = torch.randn(2, 3, 4, dtype=torch.complex128)
    one = x[:, 0].clone().unsqueeze(1)  # its stride is that of the rows, and has no say
    for operand, wrong in ((x, 1), (x.mT, 1), (one, 1), (x[0].expand(2, 3, 4), 1), (x[0, 0].expand(2, 3, 4), 0)):
        graph = capture(lambda x: torch.fft.irfft(x), operand)
        node = next(n for n in graph.nodes if n.target is torch.ops.aten._fft_c2r.default)
        assert not list(unlike(graph, graph.bind((operand,), {})))
        node.meta["val"] = node.meta["val"].transpose(0, 2).contiguous().transpose(0, 2)
        assert len(list(unlike(graph, graph.bind((operand,), {})))) == wrong


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_wrong_rule_is_noticed_and_a_point_without_a_derivative_is_left_out(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """A wrong gradient of ``abs`` is wrong beside its kink; singular vectors of a matrix of equal rows have none."""
    sign = torch.ops.aten.abs.default
    monkeypatch.setitem(registry._TABLE, sign, registry.Entry(sign, "rule", lambda adjoint, y, x: adjoint, "", "", ""))
    point = torch.tensor([[0.5, -1.0, 2.0]], dtype=dtype)
    with check_transforms(False):
        assert "WRONG" in (check(lambda x: (x.abs(),), [point], 1, 1e-3) or "")
        equal = point.expand(3, 3).clone()
        assert check(lambda x: (torch.linalg.svd(x).U.abs(),), [equal], 1, 1e-3) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_finite_differences_decide_where_autograd_is_mistaken(dtype: torch.dtype) -> None:
    """It passes a gradient to elements that ``as_strided_scatter`` overwrites."""
    (tally,) = sweep([e for e in operators.entries() if e.name == "as_strided_scatter"], dtype, limit=3, forms=6)
    assert tally.passed and not tally.wrong and not tally.refused


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 2), (2, 2, 3, 2, 2)])
def test_layouts_change_strides_and_not_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for name, lay in LAYOUTS.items():
        assert lay(x).shape == x.shape
        if name not in ("expanded", "expanded inside", "overlapping"):
            assert torch.equal(lay(x), x)
    different = sum(not lies_alike(lay(x), x) for lay in LAYOUTS.values())
    assert different >= min(7, [0, 3, 7, 7, 8, 8][x.dim()]) - 1
    assert all(f(x).numel() in (1, x.numel(), 2 * x.numel()) for f in ADJOINTS.values())

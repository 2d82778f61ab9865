"""Products over a long dimension are made in parts, one for each thread, and are what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memograd.pipeline import capture_for
from memograd.run import inductor

aten = torch.ops.aten


@pytest.fixture
def bmms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each graph that the compiler gets in how many parts its products are; the graph itself runs in its place."""
    found: list[int] = []

    def compile(module: Any, operands: Any, options: Any) -> Any:
        targets = [n.target for n in module.graph.nodes]
        views = [n.args[1] for n in module.graph.nodes if n.target is aten.view.default]
        found.append(views[0][1] if aten.bmm.default in targets else 1)
        return module

    monkeypatch.setattr(inductor, "inductor_graph", compile)
    return found


@pytest.mark.parametrize(
    ("threads", "shape", "parts"),
    [
        (1, (20, 2048, 20), 1),
        (2, (20, 2048, 20), 2),
        (2, (20, 2049, 20), 1),  # no two equal parts
        (4, (20, 2048, 20), 2),  # three are the most that pay, and would not be equal
        (4, (20, 6144, 20), 4),
        (6, (20, 2049 * 2, 20), 6),
        (2, (20, 2048, 2), 1),  # too little work
        (2, (128, 1024, 128), 1),  # the result is divided
        (2, (2048, 20, 20), 1),
    ],
)
@pytest.mark.parametrize("how", ["gradient", "rows"])
def test_the_parts_and_their_sum(
    threads: int, shape: tuple[int, int, int], parts: int, how: str, bmms: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows, length, columns = shape
    a = torch.randn(rows, length) if how == "rows" else torch.randn(length, rows).t()
    b = torch.randn(length, columns) if how == "gradient" else torch.randn(columns, length).t()
    function = inductor.compiled(capture_for(lambda a, b: (a @ b, a @ (2 * b)), (a, b), {}))
    exact = (a.double() @ b.double()).float()
    for ours, theirs in zip(function(a, b), (exact, 2 * exact), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)
    assert bmms == [parts]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_dtypes_as_they_are(dtype: torch.dtype, bmms: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    a = torch.randn(4096, 20, dtype=dtype)
    inductor.compiled(capture_for(lambda a: a.t() @ a, (a,), {}))(a)
    assert bmms == [1]


def test_a_square_of_one_operand(bmms: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    a = torch.randn(4096, 20, dtype=torch.float64)
    (ours,) = inductor.compiled(capture_for(lambda a: a.t() @ a, (a,), {}))(a)
    torch.testing.assert_close(ours, a.t() @ a)
    assert bmms == [2]

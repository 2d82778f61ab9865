"""What operators take, against the profiler's record of the operator itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_steps import allocated

from memograd.errors import PlanViolationError
from memograd.lower.lower import lower
from memograd.memory.costs.measure import _CACHE, Measurement, measure
from memograd.memory.costs.storages import Storages, storages
from memograd.pipeline import capture, differentiate


def read(f: Callable[..., Any], *args: Any) -> Storages:
    return storages(lower(capture(f, *args)))


def of(found: Storages, name: str) -> Measurement:
    return next(m for o, m in zip(found.operators, measure(found), strict=True) if o.name == name)


OPERATORS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "convolution": (torch.conv2d, lambda: (torch.randn(3, 5, 17, 17), torch.randn(7, 5, 3, 3))),
    "mm": (torch.mm, lambda: (torch.randn(33, 65), torch.randn(65, 17))),
    "native_layer_norm": (lambda x: torch.layer_norm(x, [64]), lambda: (torch.randn(40, 64),)),
    "sort": (lambda x: torch.sort(x)[0], lambda: (torch.randn(40, 64),)),
    "sum_1": (lambda x: x.sum(0), lambda: (torch.randn(400, 64).bfloat16(),)),
    "index": (lambda x, i: x[i], lambda: (torch.randn(40, 64), torch.randint(0, 40, (100,)))),
    "cat": (lambda x, y: torch.cat([x, y]), lambda: (torch.randn(40, 64), torch.randn(2, 64))),
    "cumsum": (lambda x: x.cumsum(0), lambda: (torch.randn(400, 3),)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_results_and_workspace_are_what_the_profiler_sees(name: str, tmp_path: Path) -> None:
    f, make = OPERATORS[name]
    found = read(f, *make())
    measured = of(found, name)
    args = make()
    kept: list[Any] = []
    assert not measured.modelled and measured.seconds > 0
    assert measured.workspace + sum(measured.results) == allocated(lambda: kept.append(f(*args)), tmp_path)


def test_several_results_each_have_their_bytes() -> None:
    found = read(lambda x: torch.sort(x)[0] + 1, torch.randn(8, 3))
    assert of(found, "sort").results == (8 * 3 * 4, 8 * 3 * 8), "float32 values, int64 indices"


def test_made_up_lengths_do_not_make_results_small(tmp_path: Path) -> None:
    """CTC's table has a column for each character of the longest target, and made-up lengths are zero."""
    lengths = torch.tensor([9, 8]), torch.tensor([3, 2])
    scores, targets = torch.randn(9, 2, 5), torch.randint(1, 5, (2, 3))
    found = read(lambda x, t: torch.ops.aten._ctc_loss.Tensor(x, t, *lengths)[0], scores, targets)
    measured = of(found, "_ctc_loss")
    assert measured.results == (2 * 4, 2 * 9 * 7 * 4)
    kept: list[Any] = []
    seen = allocated(lambda: kept.append(torch.ops.aten._ctc_loss.Tensor(scores, targets, *lengths)), tmp_path)
    assert measured.workspace + sum(measured.results) >= seen


def test_what_no_made_up_data_suits_is_modelled(tmp_path: Path) -> None:
    """Lengths that are all zero do not add up to the rows; the model must not say less than what is taken."""
    rows, lengths = torch.randn(50, 2), torch.tensor([20, 30])
    found = read(lambda x, n: torch.segment_reduce(x, "sum", lengths=n, axis=0), rows, lengths)
    measured = of(found, "segment_reduce")
    assert measured.modelled and measured.results == (2 * 2 * 4,) and measured.seconds > 0
    kept: list[Any] = []
    seen = allocated(lambda: kept.append(torch.segment_reduce(rows, "sum", lengths=lengths, axis=0)), tmp_path)
    assert measured.workspace + sum(measured.results) >= seen


class Counting(TorchDispatchMode):
    """Counts operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_an_operator_is_measured_once_in_a_process() -> None:
    found = read(lambda x: torch.tanh(x) + torch.tanh(x + 1), torch.randn(31, 17))
    first = measure(found)
    with Counting() as counting:
        again = measure(found)
        other = measure(read(lambda y: torch.tanh(y), torch.randn(31, 17)))
    assert again == first and other[0] in first, "the same operator on the same geometry, whatever the program"
    assert counting.count < 50, "nothing was measured; tracing runs a few operators on tensors without data"
    with Counting() as counting:
        measure(found)
    assert counting.count == 0


def test_measuring_leaves_no_trace() -> None:
    """The generators go on as if nothing had happened, and inputs are only read."""
    weight = torch.nn.Parameter(torch.randn(9, 9))
    found = read(lambda x: torch.nn.functional.dropout(x @ weight, 0.5), torch.randn(4, 9))
    before, state = weight.detach().clone(), torch.get_rng_state()
    measure(found)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(weight, before) and weight.grad is None


def test_what_runs_on_the_cpu_is_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a CUDA device too, its allocator knows nothing of what the CPU takes."""
    found = read(lambda x: torch.sort(x)[0], torch.randn(37, 64))
    expected = of(found, "sort")
    for key in list(_CACHE):
        monkeypatch.delitem(_CACHE, key)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    measured = of(found, "sort")
    assert not measured.modelled
    assert (measured.workspace, measured.results) == (expected.workspace, expected.results)


def test_writes_take_time_and_no_memory() -> None:
    norm = torch.nn.BatchNorm1d(5)
    found = read(norm, torch.randn(4, 5))
    writes = [m for o, m in zip(found.operators, measure(found), strict=True) if o.into is not None]
    assert len(writes) == 3 and all(m.results == () and m.workspace == 0 and m.seconds > 0 for m in writes)


def test_an_operator_that_hides_a_view_is_refused() -> None:
    """PyTorch's custom operators may not return their input; a library written below them can."""
    library = torch.library.Library("memograd_hidden", "FRAGMENT")
    library.define("same(Tensor x) -> Tensor")
    library.impl("same", lambda x: torch.ops.aten.alias.default(x), "CPU")
    library.impl("same", lambda x: torch.empty_like(x), "Meta")
    graph = lower(capture(lambda x: torch.ops.memograd_hidden.same(x * 2) + 1, torch.randn(5)))
    with pytest.raises(PlanViolationError, match="returns memory of another tensor"):
        measure(storages(graph))


def test_the_views_that_schemas_hide_are_known() -> None:
    graph = lower(capture(lambda x: [p * 2 for p in torch.unsafe_split(x * 3, 2)], torch.randn(6, 2)))
    found = storages(graph)
    assert [o.name for o in found.operators] == ["mul", "mul_1", "mul_2", "mul_3"]
    assert found.sizes == (48, 16, 16, 16) and not any(m.modelled for m in measure(found))


def test_a_write_into_a_part_copies_the_storage_behind_it(tmp_path: Path) -> None:
    """PyTorch's scatter operators copy all of the storage that the written view lies in, not the view alone."""

    def f(x: torch.Tensor) -> torch.Tensor:
        table = x * 2
        table[:8].select(1, 3).mul_(3)  # writes into a part of a part
        table[:, :4] = x[:, 4:8]
        return table.sin()

    x = torch.randn(100, 64)
    found = read(f, x)
    graph, whole = found.graph, 100 * 64 * 4
    values: dict[Any, Any] = {graph.placeholders[0]: x}
    measured = {o.node: m for o, m in zip(found.operators, measure(found), strict=True)}
    for node in graph.nodes:
        args = torch.fx.map_arg(node.args, values.__getitem__)
        target: Any = node.target
        if node in measured:
            seen = allocated(lambda t=target, a=args, n=node: values.update({n: t(*a)}), tmp_path)
            assert measured[node].workspace + sum(measured[node].results) == seen, node.format_node()
        else:
            values[node] = target(*args)
    sizes = {o.node.name: found.sizes[found.outputs[k][0]] for k, o in enumerate(found.operators)}
    assert sizes["select_scatter"] == sizes["copy"] == whole, sizes
    assert torch.equal(values[graph.results[0]], f(x))


def backward_as_run(f: Callable[..., Any], x: torch.Tensor, kind: str, folder: Path) -> tuple[Measurement, int]:
    """The measurement of the first operator whose name contains ``kind``, and the bytes that it takes on true data."""
    graph = lower(differentiate(capture(f, x)))
    found = storages(graph)
    measured = {o.node: m for o, m in zip(found.operators, measure(found), strict=True)}
    values: dict[Any, Any] = dict(zip(graph.placeholders, [t.detach() for t in graph.bind((x,), {})], strict=True))
    for node in graph.nodes:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
        target: Any = node.target
        if kind in node.name and node in measured:
            return measured[node], allocated(
                lambda t=target, a=args, k=kwargs, n=node: values.update({n: t(*a, **k)}), folder
            )
        values[node] = target(*args, **kwargs)
    pytest.skip(f"this machine has no {kind}")


def test_a_kernels_own_workspace_is_handed_on(tmp_path: Path) -> None:
    """oneDNN's LSTM hands its backward kernel a workspace whose size the graph does not know. Without it the forward
    kernel would run again, and all it takes would be counted twice."""
    model = torch.nn.LSTM(8, 16)
    measured, seen = backward_as_run(lambda x: model(x)[0].sum(), torch.randn(6, 32, 8), "layer_backward", tmp_path)
    assert not measured.modelled and measured.workspace + sum(measured.results) == seen


def test_what_only_another_kernel_can_make_up(tmp_path: Path) -> None:
    """In bfloat16 the CPU's normalization saves its statistics in float32, and its backward kernel wants them so;
    pivots start at one."""
    norm = torch.nn.BatchNorm2d(4)
    measured, seen = backward_as_run(
        lambda x: norm(x).sum(), torch.randn(2, 4, 8, 8).bfloat16(), "norm_backward", tmp_path
    )
    assert not measured.modelled and measured.workspace + sum(measured.results) == seen
    right = torch.randn(5, 1)
    solved = lambda x: torch.linalg.solve(x + 5 * torch.eye(5), right).sum()  # noqa: E731
    measured, seen = backward_as_run(solved, torch.rand(5, 5), "lu_solve", tmp_path)
    assert not measured.modelled and measured.workspace + sum(measured.results) == seen

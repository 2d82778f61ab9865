"""Channels last changes where numbers lie, not which they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from memograd.graph.graph import Graph
from memograd.lower import channels_last as layout
from memograd.lower.lower import lower
from memograd.pipeline import capture, differentiate


def step() -> tuple[Graph, list[torch.Tensor]]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    graph = lower(differentiate(capture(lambda x: net(x).flatten(1).square().mean(), x)))
    return graph, [t.detach() for t in graph.bind((x,), {})]


def images(graph: Graph) -> list[bool]:
    """Whether each convolution's image lies channels last."""
    found: list[Any] = [n.args[0] for n in graph.nodes if n.target in layout._OPERANDS]
    return [x.meta["val"].is_contiguous(memory_format=torch.channels_last) for x in found]


@pytest.mark.parametrize(("ratio", "better"), [(0.5, True), (1.05, True), (1.5, False)])
def test_channels_last_is_better_unless_it_is_clearly_slower(
    ratio: float, better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_seconds", lambda target, form, last: ratio if last else 1.0)
    assert layout.layouts(step()[0]) == (better, not better)


def test_results_are_the_same_and_lie_as_before() -> None:
    graph, flat = step()
    made = layout.channels_last(graph)
    assert all(images(made)) and not any(images(graph))
    for ours, theirs in zip(made.function(*flat), graph.function(*flat), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        assert ours.stride() == theirs.stride()


def test_shapes_in_the_graph_are_those_that_run() -> None:
    """Kernels are compiled for the strides that the graph says."""
    graph, flat = step()
    made = layout.channels_last(graph)
    values: dict[Any, Any] = dict(zip(made.placeholders, flat, strict=True))
    for node in made.nodes:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = node.target(*args, **kwargs)
        if isinstance(values[node], torch.Tensor):
            pairs = zip(values[node].stride(), node.meta["val"].stride(), node.meta["val"].shape, strict=True)
            assert all(a == b or n == 1 for a, b, n in pairs), node.format_node()


def test_masks_are_drawn_in_the_order_of_the_program() -> None:
    conv = nn.Conv2d(3, 4, 3)
    graph = lower(capture(lambda x: nn.functional.dropout(conv(x), 0.5), torch.randn(2, 3, 9, 9)))
    made = layout.channels_last(graph)
    flat = [t.detach() for t in graph.bind((torch.randn(2, 3, 9, 9),), {})]
    zeros = []
    for function in (made.function, graph.function):
        torch.manual_seed(0)
        zeros.append(function(*flat)[0] == 0)
    assert all(images(made)) and torch.equal(*zeros)


def test_sequences_beside_images_stay_as_they_are() -> None:
    images, sequence = nn.Conv2d(3, 4, 3), nn.Conv1d(4, 2, 3)
    graph = lower(differentiate(capture(lambda x: sequence(images(x).flatten(2)).sum(), torch.randn(2, 3, 9, 9))))
    made = layout.channels_last(graph)
    flat = [t.detach() for t in graph.bind((torch.randn(2, 3, 9, 9),), {})]
    for ours, theirs in zip(made.function(*flat), graph.function(*flat), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_time_is_measured_in_both_layouts() -> None:
    graph, _ = step()
    form = next((n.target, layout._form(n)) for n in graph.nodes if n.target in layout._OPERANDS)
    assert layout._seconds(*form, False) > 0 and layout._seconds(*form, True) > 0


def test_one_channel_lies_both_ways_and_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1), nn.Tanh(), nn.Conv2d(1, 4, 3, padding=1))
    graph = lower(capture(net, torch.randn(5, 2, 8, 8)))
    assert layout.layouts(graph) == (False,)


def test_a_step_without_images_is_left_alone() -> None:
    graph = lower(capture(nn.Linear(3, 2), torch.randn(4, 3)))
    assert layout.layouts(graph) == (False,)


def test_measuring_draws_nothing() -> None:
    graph, _ = step()
    layout._seconds.cache_clear()
    before = torch.get_rng_state()
    layout.layouts(graph)
    assert torch.equal(torch.get_rng_state(), before)


class Attention(nn.Module):
    """Rows of queries, keys and values that lie in one piece only while channels come first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.reshape(2, 2, 8, 16) for t in self.conv(x).chunk(3, 1))
        return nn.functional.scaled_dot_product_attention(q, k, v).square().sum()


class Spectrum(nn.Module):
    """Pairs of numbers seen as complex ones must lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_complex(self.conv(x).reshape(2, 4, 8, 2)).abs().sum()


@pytest.mark.parametrize("kind", [Attention, Spectrum])
def test_what_counts_on_its_layout_keeps_it(kind: type[nn.Module]) -> None:
    model, x = kind(), torch.randn(2, 3, 4, 4)
    graph = lower(differentiate(capture(model, x)))
    made = layout.channels_last(graph)
    assert made is not graph and all(images(made))
    flat = [t.detach() for t in graph.bind((x,), {})]
    for ours, theirs in zip(made.function(*flat), graph.function(*flat), strict=True):
        torch.testing.assert_close(ours, theirs)

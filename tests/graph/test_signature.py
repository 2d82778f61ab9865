"""A graph reads what fits how it was captured, and refuses the rest by the argument's name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import memograd as mg
from memograd.graph.signature import same


def program(x: torch.Tensor, scale: float = 2.0) -> dict[str, Any]:
    return {"twice": x * scale, "scale": scale, "parts": (x.sin(), x.cos())}


def test_results_come_back_as_the_program_nests_them() -> None:
    x = torch.randn(3)
    result = mg.capture(program, torch.zeros(3))(x)
    assert list(result) == ["twice", "scale", "parts"] and result["scale"] == 2.0 and type(result["parts"]) is tuple
    torch.testing.assert_close([result["twice"], *result["parts"]], [x * 2, x.sin(), x.cos()])


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((torch.zeros(4),), {}, r"'x' has shape \(4,\)"),
        ((torch.zeros(3, dtype=torch.float64),), {}, "'x' has shape .* and dtype torch.float64"),
        ((torch.zeros(3), torch.zeros(3)), {}, "structure"),
        ((torch.zeros(3),), {"scale": 3.0}, "structure"),
        ((2.0,), {}, "'x' is 2.0"),
    ],
)
def test_other_arguments_are_refused(args: Any, kwargs: Any, said: str) -> None:
    graph = mg.capture(program, torch.zeros(3))
    with pytest.raises(mg.CaptureError, match=said):
        graph(*args, **kwargs)


def test_another_number_is_refused() -> None:
    with pytest.raises(mg.CaptureError, match=r"'scale' is 3\.0, the graph was captured with 2\.0"):
        mg.capture(program, torch.zeros(3), 2.0)(torch.zeros(3), 3.0)


def test_an_argument_that_lies_otherwise_in_memory_is_read_by_its_values() -> None:
    graph = mg.capture(lambda x: x.as_strided((6,), (1,)), torch.zeros(2, 3))
    x = torch.arange(6.0).reshape(3, 2).t()
    torch.testing.assert_close(graph(x), x.contiguous().flatten())


def test_a_written_argument_that_lies_otherwise_is_refused() -> None:
    graph = mg.capture(lambda x: x.mul_(2), torch.zeros(2, 3))
    x = torch.ones(3, 2).t()
    with pytest.raises(mg.CaptureError, match=r"'x', which the program writes to, has strides \(1, 2\)"):
        graph(x)
    assert (x == 1).all()


def test_several_elements_at_one_place_cannot_be_filled_from_elsewhere() -> None:
    graph = mg.capture(lambda x: x * 2, torch.zeros(1).expand(3))
    with pytest.raises(mg.CaptureError, match="several elements at one place"):
        graph(torch.arange(3.0))


def test_views_into_larger_tensors_are_refused_where_offsets_count() -> None:
    graph = mg.capture(lambda x: x.as_strided((2,), (1,), 1), torch.arange(4.0))
    torch.testing.assert_close(graph(torch.arange(4.0)), torch.tensor([1.0, 2.0]))
    with pytest.raises(mg.CaptureError, match="as_strided with an explicit offset"):
        graph(torch.arange(8.0)[4:])


class Odd:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def test_leaves_that_cannot_be_compared_differ() -> None:
    odd = Odd()
    assert same(odd, odd) and not same(odd, Odd()) and not same(1, 1.0) and not same(1, True)

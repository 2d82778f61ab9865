"""A plan's own failures are its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import memograd as mg
from memograd.run.planned import Planned


def planned(code: str) -> tuple[Planned, list[torch.Tensor]]:
    graph = mg.capture(lambda x: x * 2, torch.ones(2))
    plan: Any = SimpleNamespace(code=code)
    return Planned(graph, plan), [torch.ones(2)]


def test_an_assertion_of_somebody_elses_is_not_blamed_on_inductor() -> None:
    backend, flat = planned("def step(x):\n    assert False, 'mine'\n")
    with pytest.raises(AssertionError, match="mine"):
        backend.step(flat)


def test_operands_that_a_kernel_was_not_compiled_for_are_a_backend_error() -> None:
    check = "from torch._C._dynamo.guards import assert_size_stride\ndef step(x):\n"
    backend, flat = planned(check + "    assert_size_stride(x, (3,), (1,))\n")
    with pytest.raises(mg.BackendError, match="compiled for other operands"):
        backend.step(flat)

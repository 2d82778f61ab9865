"""Numbers that PyTorch reads past its dispatcher decide what a program does. Witness: plain PyTorch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, unpack_sequence
from torch.utils import dlpack  # pyright: ignore[reportPrivateImportUsage]

import memograd as mg

Tensor = torch.Tensor
aten = torch.ops.aten
PACKED = [[3, 3, 1], [3, 2, 2], [3, 3, 1]]
PARTS = [[2, 4], [3, 4], [2, 4]]


def layer(kind: Any) -> Callable[[Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    recurrent = kind(3, 4).double().requires_grad_(False)
    return lambda x, n: recurrent(PackedSequence(x, n))[0].data


def called(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    weights = [torch.full(shape, 0.3, dtype=torch.float64) for shape in ((12, 3), (12, 4), (12,), (12,))]
    state = torch.zeros(1, 3, 4, dtype=torch.float64)
    return lambda x, n: function(x, n, state, weights, True, 1, 0.0, True, False)[0]


READS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[list[int]]]] = {
    "LSTM": (layer(nn.LSTM), PACKED),
    "GRU": (layer(nn.GRU), PACKED),
    "RNN": (layer(nn.RNN), PACKED),
    "torch.gru": (called(torch.gru), PACKED),
    "aten.gru": (called(aten.gru), PACKED),
    "aten.gru.data": (called(aten.gru.data), PACKED),
    "pad_packed_sequence": (lambda x, n: pad_packed_sequence(PackedSequence(x, n))[0], PACKED),
    "unpack_sequence": (lambda x, n: unpack_sequence(PackedSequence(x, n))[1], PACKED),
    "tensor_split": (lambda x, n: aten.tensor_split.tensor_indices_or_sections(x, n)[1], PARTS),
    "torch.tensor": (lambda x, n: x[:, :2] * torch.tensor([n[0], n[1]]), PARTS),
    "nested lists": (lambda x, n: x[:, :2] * torch.tensor([[n[0]], (n[1],)]).sum(), PARTS),
    "as_tensor": (lambda x, n: x[:, :2] * torch.as_tensor([n[0], n[1]]), PARTS),
    "new_tensor": (lambda x, n: x[:, :2] * x.new_tensor([n[0], 2.0]), PARTS),
    "LongTensor": (lambda x, n: x[:, :2] * torch.LongTensor(list(n)), PARTS),
    "DoubleTensor": (lambda x, n: x[:, :2] * torch.DoubleTensor([n[0].double() / 3, 2.0]), PARTS),
    "np.from_dlpack": (lambda x, n: x * int(np.from_dlpack(n)[0]), PARTS),  # pyright: ignore[reportArgumentType]
    "torch.from_dlpack": (lambda x, n: x[:, :2] * torch.from_dlpack(n), PARTS),
    "apply_": (lambda x, n: x[:, :2] * n.clone().apply_(lambda v: v * v), PARTS),
    "map_": (lambda x, n: x[:, :2] * n.clone().map_(n, lambda v, w: v + 2 * w), PARTS),
}
WHERE = {
    "argument": lambda model, n: n,
    "made of it": lambda model, n: n + 0,
    "buffer": lambda model, n: model.numbers,
}


class Reading(nn.Module):
    def __init__(self, read: Callable[[Tensor, Tensor], Tensor], where: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.numbers: Any
        self.register_buffer("numbers", None)
        self.read: Any = read
        self.where: Any = WHERE[where]

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        return self.read(x * self.scale, self.where(self, n))


def trained(model: Any, numbers: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    seen = []
    for k, values in enumerate(numbers):
        x = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        model.numbers = torch.tensor(values) if model.numbers is None else model.numbers.copy_(torch.tensor(values))
        model.zero_grad()
        y = model(x, torch.tensor(values))
        y.square().sum().backward()
        seen.append((y.detach(), model.scale.grad.clone()))
    return seen


@pytest.mark.one_in(2)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", READS)
def test_numbers_that_are_read_in_silence_are_those_of_the_call(name: str, where: str) -> None:
    read, numbers = READS[name]
    expected = trained(Reading(read, where), numbers)
    assert any(a[0].shape != b[0].shape or not a[0].equal(b[0]) for a, b in pairwise(expected))
    ours = trained(mg.wrap(Reading(read, where), check="never"), numbers)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


REFUSED = {
    "pickle": (lambda x, n: x * pickle.loads(pickle.dumps(n))[0], "changes the memory of a tensor"),
    "to_dlpack": (lambda x, n: x * dlpack.from_dlpack(vars(dlpack)["to_dlpack"](n)).sum(), "to_dlpack"),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", REFUSED)
def test_memory_that_leaves_pytorch_is_refused_by_name(name: str, where: str) -> None:
    """The interpreter crashed: tensors without data have no memory."""
    read, words = REFUSED[name]
    with pytest.raises(mg.CaptureError, match=words):
        trained(mg.wrap(Reading(read, where), check="never"), PARTS)


def test_a_pickle_is_that_of_the_call() -> None:
    first = torch.tensor(PARTS[0]).numpy().tobytes()

    def compared(x: Tensor, n: Tensor) -> Tensor:
        return x * (2.0 if first in pickle.dumps(n) else 3.0)

    expected = trained(Reading(compared, "argument"), PARTS)
    torch.testing.assert_close(trained(mg.wrap(Reading(compared, "argument"), check="never"), PARTS), expected)


def test_a_file_of_tensors_is_refused_with_what_to_do(tmp_path):
    torch.save(torch.ones(3), tmp_path / "scale.pt")
    with pytest.raises(mg.CaptureError, match=r"torch\.load\) outside of the program"):
        mg.capture(lambda x: x * torch.load(tmp_path / "scale.pt"), torch.ones(3))

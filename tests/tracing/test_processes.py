"""Programs that talk to other processes are refused by name: a capture must not run a collective, nor leave it out."""

import pytest
import torch
from processes import together
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import memograd as mg


def summed(x):
    y = x * 2
    distributed.all_reduce(y)
    return y.sum()


def waiting(x):
    distributed.barrier()
    return x.sum()


def gathered(x):
    parts = [torch.empty_like(x)]
    distributed.all_gather(parts, x)
    return parts[0].sum()


def texts():
    refused = []
    for f in (summed, waiting, gathered):
        with pytest.raises(mg.CaptureError, match="talks to other processes") as error:
            mg.capture(f, torch.ones(3))
        refused.append(str(error.value))
    spread = distribute_tensor(torch.ones(3), init_device_mesh("cpu", (1,)), [Shard(0)])
    with pytest.raises(mg.CaptureError) as error:
        mg.grad(torch.sum)(spread)
    return [*refused, str(error.value)]


def test_collectives_and_spread_tensors_are_refused_by_name():
    (refused,) = together(texts, count=1)
    named = ["distributed.all_reduce(y)", "distributed.barrier()", "distributed.all_gather(parts, x)", "a DTensor"]
    assert all(name in text for name, text in zip(named, refused, strict=True))

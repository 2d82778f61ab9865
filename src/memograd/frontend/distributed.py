"""Wrapped models over several processes: which part of a model runs our graphs.

``DistributedDataParallel`` and ``fully_shard`` do their work around the forward of modules: they gather parameters,
free them again, sum gradients. So a graph lies inside such a module, below that, and never goes across one. Where the
module that was wrapped holds others of the kind, these are wrapped in its place, and its own forward is PyTorch's.
"""

from __future__ import annotations

import sys

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from memograd.errors import CaptureError


class Elsewhere:
    """What stands for the program of a model whose parts have the programs."""

    plain = True
    volatile = ""

    @property
    def guards(self) -> Elsewhere:
        return self

    def hold(self) -> bool:
        return True

    def given_hold(self, leaves: object) -> bool:
        return True


def parts_of(model: nn.Module) -> list[nn.Module]:
    """The modules to be wrapped in the place of ``model``; none: itself.

    Raises:
        CaptureError: what it holds can be captured nowhere.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return []
    _refuse(model)
    if isinstance(model, DistributedDataParallel):
        return [model.module]
    kinds = (DistributedDataParallel, *_sharded())
    units = [m for m in model.modules() if m is not model and isinstance(m, kinds)]
    holders = {id(m) for m in units if any(isinstance(part, kinds) for part in m.modules() if part is not m)}
    innermost = [m for m in units if id(m) not in holders]
    return [m.module if isinstance(m, DistributedDataParallel) else m for m in innermost]


def _sharded() -> list[type]:
    """What ``fully_shard`` makes of a module's class; who has called it has imported it."""
    module = sys.modules.get("torch.distributed.fsdp")
    return [] if module is None else [module.FSDPModule]


def _refuse(model: nn.Module) -> None:
    flat = [name for name, _ in model.named_parameters() if name.endswith("_flat_param")]
    if flat:
        raise CaptureError(
            f"FullyShardedDataParallel has made one parameter of many ({flat[0]}), which cannot be captured: shard "
            "with torch.distributed.fsdp.fully_shard"
        )
    if distributed.get_world_size() == 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            raise CaptureError(
                f"SyncBatchNorm ({name or 'the model itself'}) talks to other processes in the middle of the forward "
                "pass, and cannot be captured: take BatchNorm, or wrap the parts of the model before and behind it"
            )

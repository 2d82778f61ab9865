"""The device that everything is tried on, and what differs between devices."""

from __future__ import annotations

import gc
import importlib.util
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from memograd import c_compiler

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """``small``: shapes that a CPU gets through; ``few``: only some cases of each part."""

    device: torch.device
    small: bool
    few: bool

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def about(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name(self.device) if self.is_cuda else platform.machine()
        about = {"torch": torch.__version__, "python": platform.python_version(), "device": f"{self.device} ({name})"}
        if self.is_cuda:
            about |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
            about["memory"] = f"{torch.cuda.mem_get_info(self.device)[0] >> 20} MiB free"
        about |= {what: "no" for what in ("numpy", "triton", "safetensors") if importlib.util.find_spec(what) is None}
        return about | ({} if c_compiler.compiler() else {"C compiler": "no"})

    def some(self, cases: dict[str, T], count: int) -> dict[str, T]:
        """The cases, or ``count`` of them spread over all where few are wanted."""
        if not self.few:
            return cases
        names = list(cases)
        return {names[k]: cases[names[k]] for k in range(0, len(names), max(1, len(names) // count))}

    def exact(self) -> AbstractContextManager[None]:
        """All digits of single precision, where a device leaves some out: what is compared is the derivative."""
        if not self.is_cuda:
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def clean(self) -> None:
        """Let go of everything that earlier cases left."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def peak(self, call: Callable[[], Any]) -> int:
        """The most bytes allocated while ``call`` runs, besides what is no part of it."""
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.device)

    def seconds(self, calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Times of each call, taken in turns, so that a slow moment of the machine hits all alike."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                self.synchronize()
                start = time.perf_counter()
                call()
                self.synchronize()
                times[name].append(time.perf_counter() - start)
        return times


def apart(ours: nn.Module, theirs: nn.Module, before: dict[str, torch.Tensor]) -> float:
    """How far the two models' changes of parameters are apart, as a share of the change itself."""
    expected = dict(theirs.named_parameters())
    difference = change = 0.0
    for name, parameter in ours.named_parameters():
        difference += float((parameter.detach().double() - expected[name].detach().double()).square().sum())
        change += float((expected[name].detach().double() - before[name].double()).square().sum())
    return (difference / change) ** 0.5 if change else (0.0 if difference == 0 else float("inf"))


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number; infinite where shape or dtype differ."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype or ours.device != theirs.device:
        return float("inf")
    if not theirs.numel():
        return 0.0
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    scale = theirs.abs().nan_to_num(0, 0, 0).max().item()
    gap = (ours - theirs).abs().masked_fill(same, 0).nan_to_num(float("inf")).max().item()
    return gap / max(scale, 1e-30) if gap else 0.0

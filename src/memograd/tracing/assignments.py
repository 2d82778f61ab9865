"""``x.data = y`` gives a tensor other memory without any operator: the dispatcher never sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from memograd.tracing.tape import Tape

_SET_DATA = torch.Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]


class Assignments(TorchFunctionMode):
    """While open, tells ``tape`` of every tensor whose ``.data`` is set."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func != _SET_DATA or self.tape.paused:
            return func(*args, **(kwargs or {}))
        tensor, new = args
        self.tape.assign(tensor, new)
        return func(self.tape.stand_in(tensor), self.tape.stand_in(new))

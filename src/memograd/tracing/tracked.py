"""PyTorch's own bookkeeping of which module runs (``torch.utils.module_tracker``; ``FlopCounterMode`` keeps it).

Its hooks on modules put hooks on tensors, which only note that the backward pass comes by. A graph's backward pass
comes by no module; what is captured goes without them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import module_tracker
from torch.utils.hooks import RemovableHandle

from memograd.tracing.interposed import Interposed, current

_REGISTER = torch.autograd.graph.register_multi_grad_hook


def _register(tensors: Sequence[torch.Tensor], hook: Callable[..., Any]) -> Any:
    return _REGISTER(tensors, hook) if current() is None else RemovableHandle(OrderedDict())


TRACKED = Interposed(module_tracker, _REGISTER.__name__, _register)

"""What stands around an operator that runs: modes, and whoever else listens.

- ``TorchDispatchMode``: sees every ATen call below autograd. Documented, but lives in a private module. PyTorch notes
  for the whole process whether one is on, and each notes what to go back to; ours share their notes.
- ``dispatch_modes``: nothing public says which modes this thread is in.
- ``without_modes``: what runs inside is neither recorded nor faked (``_disable_current_modes``).
- ``unseen``: function modes are switched off by ``DisableTorchFunction`` only.
- ``default_device``: ``torch.get_default_device`` looks for a function mode and takes 20 µs; whether there is any mode
  (``_len_torch_function_stack``) takes none.
- ``inside_make_fx``: nothing public says that somebody else traces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

MODES_BEFORE: dict[str, deque[bool]] = {
    name: deque()
    for name in (
        "old_dispatch_mode_flags",
        "old_non_infra_dispatch_mode_flags",
        "old_without_ignore_compile_internals_dispatch_mode_flags",
    )
}


class TorchDispatchMode(DispatchMode):
    """A mode that may be left in another order than it was entered, as happens when several threads have one on each:
    what the first one found is what the last one leaves. (``torch.compile`` does nothing while it is told that a mode
    is on.)"""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(MODES_BEFORE)


@contextmanager
def unseen() -> Iterator[None]:
    """No mode sees what runs inside, neither as a function nor as an operator."""
    with torch._C.DisableTorchFunction(), without_modes():
        yield


def default_device() -> torch.device | None:
    """What factories make tensors on; None where nobody has said anything, which costs less to find out."""
    return torch.get_default_device() if torch._C._len_torch_function_stack() else None


def inside_make_fx() -> bool:
    """True where somebody else traces what runs (``make_fx``, ``torch.export``): their modes are found by name, since
    importing them takes long."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(type(mode).__name__ == "ProxyTorchDispatchMode" for mode in dispatch_modes())

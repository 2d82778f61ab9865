"""What stands around an operator that runs: modes, and whoever else listens.

- ``TorchDispatchMode``: sees every ATen call below autograd. Documented, but lives in a private module. PyTorch notes
  for the whole process whether one is on, and each notes what to go back to; ours share their notes.
- ``passed_on``: that a mode gets Python's numbers for some tensors is said nowhere.
- ``dispatch_modes``: nothing public says which modes this thread is in.
- ``without_modes``: what runs inside is neither recorded nor faked (``_disable_current_modes``).
- ``unseen``: function modes are switched off by ``DisableTorchFunction`` only.
- ``default_device``: ``torch.get_default_device`` looks for a function mode and takes 20 µs; whether there is any mode
  (``_len_torch_function_stack``) takes none.
- ``surrounded`` / ``others_around``: ``_is_any_autocast_enabled`` asks once for all devices; the counts of modes, the
  trace of ``torch.jit``, forward mode and ``torch.func``'s transforms have no public counterpart that costs as little.
- ``any_modes`` / ``modes_of_others``: what else is on (``_len_torch_function_stack``, ``_len_torch_dispatch_stack``,
  ``_get_current_function_mode_stack``); nothing public says so.
- ``without_dispatch_modes``: ``without_modes``, where it is the caller's modes that are on.
- ``without_function_modes`` / ``with_function_modes``: ``DisableTorchFunction`` and ``_EnableTorchFunction``. A graph
  that was captured under a mode has in it what the mode did.
- ``past_the_dispatcher``: C++ excludes a dispatch key where it calls back into Python; nothing public says so.
- ``inside_make_fx``: nothing public says that somebody else traces.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_any_autocast = torch._C._is_any_autocast_enabled
_tracing = torch._C._is_tracing
_innermost_transform: Any = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]

MODES_BEFORE: dict[str, deque[bool]] = {
    name: deque()
    for name in (
        "old_dispatch_mode_flags",
        "old_non_infra_dispatch_mode_flags",
        "old_without_ignore_compile_internals_dispatch_mode_flags",
    )
}


class _Hidden(threading.local):
    """The caller's dispatch modes that see nothing just now: they are on all the same."""

    modes: Sequence[Any] = ()


_hidden = _Hidden()


class TorchDispatchMode(DispatchMode):
    """A mode that may be left in another order than it was entered, as happens when several threads have one on each:
    what the first one found is what the last one leaves. (``torch.compile`` does nothing while it is told that a mode
    is on.)"""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(MODES_BEFORE)


_ONE_NUMBER = torch.ops.aten._local_scalar_dense.default


def passed_on(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator returns that a mode has been handed: a number of Python's which C++ has made a tensor of comes
    as that number, and what asks for the number in it does not take it back."""
    if func is _ONE_NUMBER and not isinstance(args[0], torch.Tensor):
        return args[0]
    return func(*args, **kwargs)


@contextmanager
def unseen() -> Iterator[None]:
    """No mode sees what runs inside, neither as a function nor as an operator."""
    with torch._C.DisableTorchFunction(), without_modes():
        yield


def past_the_dispatcher() -> bool:
    """Whether no dispatch mode sees what this thread calls, though one is on: C++ fills a new tensor from a list."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.Python)


def default_device() -> torch.device | None:
    """What factories make tensors on; None where nobody has said anything, which costs less to find out."""
    return torch.get_default_device() if torch._C._len_torch_function_stack() else None


def any_modes() -> bool:
    """Whether any mode is on."""
    return bool(_function_modes() or _dispatch_modes())


def surrounded() -> bool:
    """Whether any mode is on, or autocast for any device."""
    return bool(_function_modes() or _dispatch_modes() or _any_autocast())


def others_around() -> bool:
    """The same, or somebody else differentiates or traces what runs: ``torch.func``, forward mode, ``torch.jit``."""
    return surrounded() or _innermost_transform() is not None or forward_ad._current_level >= 0 or _tracing()


def modes_of_others() -> tuple[Any, ...]:
    """The modes that are on and are none of ours, PyTorch's by their class; what is said of the default device
    (``with torch.device(...)``) is one for PyTorch, and is not counted."""
    if not any_modes() and not _hidden.modes:
        return ()
    modes = [
        m
        for m in (*function_modes(), *_hidden.modes, *dispatch_modes())
        if not _is_ours(m) and type(m) is not DeviceContext
    ]
    return tuple([type(m) if type(m).__module__.startswith("torch.") else m for m in modes])


def without_function_modes() -> AbstractContextManager[Any]:
    """Function modes of the caller's (``with torch.device(...)`` is one) see nothing of what runs inside. Where a
    capture of ours is under way, it does."""
    if not torch._C._len_torch_function_stack() or any(map(_is_ours, function_modes())):
        return nullcontext()
    return torch._C.DisableTorchFunction()  # pyright: ignore[reportReturnType]


def without_dispatch_modes(of_users: bool = True) -> AbstractContextManager[Any]:
    """Dispatch modes of the caller's see nothing of what runs inside, since it is none of the caller's work (a graph is
    made). Where a capture of ours is under way, it does.

    Args:
        of_users: whether also such as are no part of PyTorch; its own (``FlopCounterMode``) look, and change nothing.
    """
    modes = dispatch_modes() if _dispatch_modes() else ()
    if not modes or any(map(_is_ours, modes)):
        return nullcontext()
    if not of_users and any(not type(m).__module__.startswith("torch.") for m in modes):
        return nullcontext()
    return _hiding(modes)


@contextmanager
def _hiding(modes: list[Any]) -> Iterator[None]:
    before, _hidden.modes = _hidden.modes, [*_hidden.modes, *modes]
    try:
        with without_modes():
            yield
    finally:
        _hidden.modes = before


def with_function_modes() -> AbstractContextManager[Any]:
    """They do again."""
    return torch._C._EnableTorchFunction()  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def _is_ours(mode: Any) -> bool:
    return type(mode).__module__.startswith("memograd.")


def inside_make_fx() -> bool:
    """True where somebody else traces what runs (``make_fx``, ``torch.export``): their modes are found by name, since
    importing them takes long."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(type(mode).__name__ == "ProxyTorchDispatchMode" for mode in dispatch_modes())

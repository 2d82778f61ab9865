"""Run a program once more as if it had not been run.

A forward pass leaves traces: a counter goes up, a list of losses grows, a hidden state stays on the module, BatchNorm's
statistics move, generators draw. What Python's objects hold is taken back as it is after a capture
(``memograd.tracing.effects``); what tensors hold and where generators stand is remembered here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn

from memograd._torch import address, copy_of
from memograd.draws import devices, drawing, set_rng_state
from memograd.draws import states as states_of
from memograd.tracing.effects import Change, take_back
from memograd.tracing.kinds.generators import GENERATOR, is_generator
from memograd.tracing.reads import Reads
from memograd.tracing.states import States

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def taken_back(*roots: Any, alone: bool = False) -> Iterator[list[Change]]:
    """What runs inside, with what it reaches from ``roots``, changes no object; what it would have changed is in the
    list afterwards. ``alone``: no program that is captured just now has a part in it."""
    with undone(Reads(("", root) for root in roots), alone) as changes:
        yield changes


@contextmanager
def undone(reads: Reads, alone: bool = False) -> Iterator[list[Change]]:
    """The same with what it reaches from all that ``reads`` has met."""
    changes: list[Change] = []
    try:
        with reads.recording(alone):
            yield changes
    finally:
        changes += take_back(reads)
        reads.states.put_back()


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Tensors made inside are ordinary ones, also where the caller is in inference mode."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    before = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(before):
        yield


def outside_inference_mode(function: F) -> F:
    """What ``function`` keeps from one call to the next can be written to in any mode."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with ordinary_tensors():
            return function(*args, **kwargs)

    return cast(Any, call)


class Generators:
    """The states of PyTorch's, Python's and NumPy's global generators, of those that modules of ``root`` hold, and of
    all that is in ``states``.

    Attributes:
        shared: PyTorch's, which this thread draws from, and their devices.
    """

    def __init__(self, root: Any = None, states: States | None = None) -> None:
        self.shared = states_of(devices())
        self._others = States()
        modules = root.modules() if isinstance(root, nn.Module) else ()
        held = [value for m in modules for value in vars(m).values() if is_generator(value)]
        for generator in held:
            self._others.meet(generator, GENERATOR, "")
        for value, kind, _, name in states.met if states is not None else ():
            self._others.meet(value, kind, name)

    def now(self) -> Generators:
        """The same ones, as they are now."""
        return Generators(states=self._others)

    def put_back(self) -> None:
        """Let them draw again what they drew since."""
        for state, device in self.shared:
            set_rng_state(state, device)
        self.put_back_others()

    def put_back_others(self) -> None:
        """The same for all but PyTorch's."""
        self._others.put_back()

    @contextmanager
    def again(self) -> Iterator[dict[str, torch.Generator]]:
        """What runs inside, in this thread, draws again what was drawn since, and nothing has moved afterwards. Hands
        out what it draws from in the place of PyTorch's generators, by device.

        PyTorch's generators are everybody's, so they do not move inside either: another thread that draws meanwhile
        would draw what was drawn before, and this one would draw what the other has left.
        """
        now = self.now()
        self.put_back_others()
        try:
            with drawing(self.shared) as own:
                yield own
        finally:
            now.put_back_others()


class Contents:
    """Copies of what tensors hold. ``put_back`` writes only to those that have changed."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        once = {id(t): t for t in tensors if t.layout is torch.strided}.values()
        self._held = [(t, t.detach(), copy_of(t)) for t in once]

    def changed(self, named: dict[str, torch.Tensor]) -> set[str]:
        """Names of those whose content is another one by now."""
        contents = {id(tensor): content for tensor, _, content in self._held}
        return {name for name, t in named.items() if id(t) in contents and not _equal(t, contents[id(t)])}

    def put_back(self) -> None:
        with torch.no_grad():
            for tensor, memory, content in self._held:
                if _memory(tensor) != _memory(memory):
                    tensor.data = memory  # the program gave it other memory
                if not _equal(memory, content):
                    memory.data.copy_(content)  # a tape that has saved it shall not take it for another one


def _memory(tensor: torch.Tensor) -> Any:
    strides = tensor.stride() if tensor.layout is torch.strided else ()
    return address(tensor), tensor.dtype, tensor.shape, strides


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_meta:
        return True  # there are no values
    a = a.detach()
    if a.layout is torch.sparse_coo:
        a, b = a.to_dense(), b.to_dense()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is what it was

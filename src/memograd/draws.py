"""Random numbers drawn again, without moving the generators that all threads share: who draws again draws from a
generator of this thread's own, in the state that was."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from memograd._torch import (
    Own,
    own_generator_here,
    own_generators_here,
    redirected,
    shared_generator,
    without_modes,
)
from memograd.cautions import caution

DEVICES = ("cpu", "cuda")  # types of devices whose generators can be read and set
_TRIES = 100


def rng_state(device: str) -> torch.Tensor:
    """The state of the generator that operators on ``device`` draw from: kilobytes on the CPU, 16 bytes on CUDA."""
    own = own_generator_here(device)
    return shared_generator(device).get_state() if own is None else own.get_state()


def states(devices: Iterable[str]) -> list[tuple[torch.Tensor, str]]:
    """Where the generators of these devices stand."""
    return [(rng_state(device), device) for device in devices]


def set_rng_state(state: torch.Tensor, device: str) -> None:
    """Let operators on ``device`` draw from ``state`` on."""
    own = own_generator_here(device)
    (shared_generator(device) if own is None else own).set_state(state)


@contextmanager
def drawing(states: Iterable[tuple[torch.Tensor, str]]) -> Iterator[dict[str, torch.Generator]]:
    """What runs inside, in this thread, draws what it would have drawn in these states, by device, from generators
    which are handed out; those that all threads share do not move."""
    own: dict[str, torch.Generator] = {}
    for state, device in states:
        own[device] = torch.Generator(device)
        own[device].set_state(state)
    with Own(own):
        yield own


@contextmanager
def drawing_from(state: torch.Tensor, device: str, lasting: bool = False) -> Iterator[None]:
    """The same on one device; if ``lasting``, the shared generator goes on behind what is drawn inside."""
    with drawing([(state, device)]) as own:
        yield
    if lasting:
        go_on(state, own[device], device)


def go_on(state: torch.Tensor, own: torch.Generator, device: str) -> bool:
    """The generator that all threads share goes on from where ``own`` has come to, which began in ``state``, if it is
    still there; else somebody else has drawn since, and it stays. Whether it went on."""
    still = torch.equal(rng_state(device), state)
    if still:
        set_rng_state(own.get_state(), device)
    return still


@contextmanager
def own_generator(state: torch.Tensor, device: str) -> Iterator[torch.Generator]:
    """A generator in ``state`` that nobody else draws from."""
    generator = torch.Generator(device)
    generator.set_state(state)
    yield generator


def drawn_alone(state: torch.Tensor, device: str) -> Iterator[tuple[torch.Tensor, torch.Generator]]:
    """A state, and a generator in it to draw from; the generator that all threads share goes on behind that.

    Between a state and the draw that follows it another thread may draw from the shared one: then the same state would
    give another mask the second time, or both threads the same numbers. So it is drawn again, from where it stands
    then, until nobody was in between; where that takes too long, a warning says so.
    """
    for _ in range(_TRIES):
        with own_generator(state, device) as generator:
            yield state, generator
        if go_on(state, generator, device):
            return
        state = rng_state(device)
    caution(
        f"other threads drew from the random generator of {device} in between {_TRIES} times: some numbers which "
        "this one has drawn (a mask of dropout) may be drawn by another thread, too: let the others draw less, or from "
        "generators of their own"
    )


def devices() -> list[str]:
    """Those whose generators can have been drawn from."""
    return ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()) if torch.cuda.is_initialized())]


@contextmanager
def same_draws() -> Iterator[None]:
    """What runs inside, in this thread, draws and seeds as it would, and leaves the generators as they were: they do
    not move, since other threads draw from them."""
    with drawing(states(devices())), redirected():
        yield


@contextmanager
def timed(draws: bool, by_mode: bool = False) -> Iterator[None]:
    """What runs inside is measured, and no mode of ours in its way. If it ``draws``, the shared generators are put back
    afterwards: another thread that draws meanwhile draws some numbers twice. ``by_mode``: beside other threads draw
    from this thread's own generators instead; for whole steps, as no operator is measured by itself under a mode."""
    with without_modes() if own_generators_here() is not None else nullcontext():
        if by_mode and draws and len(sys._current_frames()) > 1:
            with drawing(states(devices())):
                yield
            return
        before = states(devices()) if draws else []
        try:
            yield
        finally:
            for state, device in before:
                set_rng_state(state, device)


@contextmanager
def undone_on_error(devices: Collection[str]) -> Iterator[None]:
    """Where what runs inside raises, the generators of ``devices`` are as before."""
    before = states(devices)
    try:
        yield
    except BaseException:
        for state, device in before:
            set_rng_state(state, device)
        raise

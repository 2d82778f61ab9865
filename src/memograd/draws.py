"""Random numbers drawn again: the generator is put back to where it was, and afterwards left as it was found."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

DEVICES = ("cpu", "cuda")  # types of devices whose generators can be read and set


def rng_state(device: str) -> torch.Tensor:
    """The state of the generator that operators on ``device`` draw from: kilobytes on the CPU, 16 bytes on CUDA."""
    return torch.get_rng_state() if torch.device(device).type == "cpu" else torch.cuda.get_rng_state(device)


@contextmanager
def drawing_from(state: torch.Tensor, device: str) -> Iterator[None]:
    """What runs inside draws what it would have drawn in ``state``; the generator does not move."""
    now = rng_state(device)
    set_rng_state(state, device)
    try:
        yield
    finally:
        set_rng_state(now, device)


@contextmanager
def own_generator(state: torch.Tensor, device: str, lasting: bool) -> Iterator[torch.Generator]:
    """A generator in ``state`` that nobody else draws from; the one that all threads share does not move, or, if
    ``lasting``, goes on behind what is drawn inside.

    Between a state and the draw that follows it another thread may draw from the shared one: then the same state gives
    another mask the second time.
    """
    generator = torch.Generator(device)
    generator.set_state(state)
    yield generator
    if lasting:
        set_rng_state(generator.get_state(), device)


@contextmanager
def same_draws() -> Iterator[None]:
    """What runs inside draws random numbers, and leaves the generators as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        yield


@contextmanager
def undone_on_error(devices: Collection[str]) -> Iterator[None]:
    """Where what runs inside raises, the generators of ``devices`` are as before."""
    before = [(rng_state(device), device) for device in devices]
    try:
        yield
    except BaseException:
        for state, device in before:
            set_rng_state(state, device)
        raise


def set_rng_state(state: torch.Tensor, device: str) -> None:
    """Let operators on ``device`` draw from ``state`` on."""
    if torch.device(device).type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)

"""Zeros and ones of dropout, drawn a block of the generator's words at a time.

PyTorch's CPU generator is a Mersenne Twister of 624 words, of which its kernels take one after the other: a mask of a
million elements takes 6 ms. A loop over the whole block is what vector units are for. What is drawn is what PyTorch
draws from the same seed, to the last element, and leaves the generator where PyTorch does: that is compared once in
a process before it is relied on (on some machines PyTorch asks a library of the vendor's instead).
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import torch
from torch.library import Library

from memograd import c_compiler
from memograd._torch import address_of, put_state, state_of, unseen
from memograd.errors import BackendError
from memograd.run.pool.library import POOL

_KINDS = {torch.float32: "float", torch.float64: "double", torch.bool: "unsigned char"}
_WORTH = 1 << 11  # elements: fewer take PyTorch no longer than a call of ours
_BITS = 53  # of the 64 that PyTorch draws for a number in [0, 1)

_LIBRARY = Library("memograd", "FRAGMENT")

_LOOP = """
typedef unsigned int word;
typedef unsigned long long wide;
struct task { void *out; long count; wide below; };

static inline word twisted(word far, word u, word v) {
    return far ^ (((u & 0x80000000u) | (v & 0x7fffffffu)) >> 1) ^ (-(v & 1u) & 0x9908b0dfu);
}

static void next_block(word *s) {
    #pragma omp simd
    for (int i = 0; i < 227; ++i) s[i] = twisted(s[i + 397], s[i], s[i + 1]);
    #pragma omp simd safelen(64)
    for (int i = 227; i < 623; ++i) s[i] = twisted(s[i - 227], s[i], s[i + 1]);
    s[623] = twisted(s[396], s[623], s[0]);
}

/* `left` counts one more than the words that are left in the block; a number takes two words, the high one first */
void memograd_bernoulli(word *s, int *left, word *next, struct task *task) {
    KIND *out = task->out;
    const wide below = task->below;
    word drawn[626];
    long have = 0;
    for (long done = 0; done < task->count;) {
        if (*left == 1) {
            next_block(s);
            *left = 625;
            *next = 0;
        }
        const long wanted = 2 * (task->count - done) - have;
        const int take = *left - 1 < wanted ? *left - 1 : (int)wanted;
        const word *from = s + *next;
        #pragma omp simd
        for (int i = 0; i < take; ++i) {
            word y = from[i];
            y ^= y >> 11;
            y ^= (y << 7) & 0x9d2c5680u;
            y ^= (y << 15) & 0xefc60000u;
            drawn[have + i] = y ^ (y >> 18);
        }
        *left -= take;
        *next += take;
        have += take;
        const int pairs = have / 2;
        #pragma omp simd
        for (int i = 0; i < pairs; ++i)
            out[done + i] = ((((wide)drawn[2 * i] << 32) | drawn[2 * i + 1]) & ((1ULL << 53) - 1)) < below;
        done += pairs;
        drawn[0] = drawn[have - 1];
        have &= 1;
    }
}
"""


class Task(ctypes.Structure):
    """``struct task`` of the loop."""

    _fields_ = [("out", ctypes.c_void_p), ("count", ctypes.c_long), ("below", ctypes.c_ulonglong)]


@torch.library.impl(_LIBRARY, "bernoulli", "CPU")
def _bernoulli(like: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """``memograd::bernoulli`` wherever it runs on the CPU: in a step, in a plan, in a wrapped model."""
    out = torch.empty_like(like)
    if like.numel() >= _WORTH and out.is_contiguous() and 0 <= p <= 1 and _agrees(like.dtype):
        _fill(out, p, generator)
        return out
    return out.bernoulli_(p, generator=generator)


def _agrees(dtype: torch.dtype) -> bool:
    """Whether the loop may draw for PyTorch. While the library is being compiled the answer is no, for now."""
    return dtype in _KINDS and POOL.look() is not None and _compared(dtype)


@cache
def _compared(dtype: torch.dtype) -> bool:
    try:
        _loop(dtype)
    except BackendError:
        return False
    # the generator itself, and not ``torch.manual_seed``: while a program is captured that counts as the program's
    generator, ends = torch.default_generator, []
    before = state_of(generator)
    try:
        for fill in (_fill, torch.Tensor.bernoulli_):
            for count, p in ((1, 0.5), (2999, 0.3), (4096, 0.9)):
                put_state(generator, state_of(torch.Generator().manual_seed(count)))
                with unseen():
                    torch.randint(7, (1,))  # one word: the block is entered at an odd place
                    mask = torch.empty(count, dtype=dtype)
                    fill(mask, p)
                    ends.append((bytes(mask.view(torch.uint8).numpy()), state_of(generator)))
    finally:
        put_state(generator, before)
    return ends[:3] == ends[3:]


def _fill(out: torch.Tensor, p: float, generator: torch.Generator | None = None) -> None:
    task = Task(out.data_ptr(), out.numel(), math.ceil(p * 2**_BITS))
    _lender()(_loop(out.dtype), ctypes.byref(task), address_of(generator) if generator is not None else None)


@cache
def _lender() -> Any:
    """A handle of the library that lets go of Python's lock during a call."""
    assert POOL.library is not None
    lend = ctypes.CDLL(POOL.library._name).generator_lend
    lend.restype, lend.argtypes = None, [ctypes.c_void_p] * 3
    return lend


@cache
def _loop(dtype: torch.dtype) -> Any:
    function = c_compiler.load(_LOOP.replace("KIND", _KINDS[dtype])).memograd_bernoulli
    return ctypes.cast(function, ctypes.c_void_p)

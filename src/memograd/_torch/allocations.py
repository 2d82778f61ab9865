"""Each allocation and free on a CPU, as PyTorch reports them to a profiler.

``torch.profiler`` has one session in a process: a second one ends somebody else's without a word, and two that stop at
once, in two threads, end the process. The profiler before it (``torch.autograd.profiler_legacy``) belongs to a thread,
so it runs in one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch.autograd import (  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    _disable_profiler_legacy,  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    _enable_profiler_legacy,  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
)
from torch.autograd.profiler import record_function
from torch.autograd.profiler_legacy import profile

T = TypeVar("T")
_MARK = "memograd operator"


def allocation_peaks(prepared: Sequence[Callable[[], Callable[[], T]]]) -> tuple[list[T], list[int]]:
    """What the calls return that ``prepared`` make ready, one after the other, and the most bytes that each has
    allocated at once. They run in a thread of their own."""
    with ThreadPoolExecutor(1, thread_name_prefix="memograd measures") as thread:
        return thread.submit(_watched, prepared).result()


def _watched(prepared: Sequence[Callable[[], Callable[[], T]]]) -> tuple[list[T], list[int]]:
    _enable_profiler_legacy(profile(profile_memory=True).config())
    results: list[T] = []
    try:
        for prepare in prepared:
            call = prepare()
            with record_function(_MARK):
                results.append(call())
            del call
    finally:
        records = _disable_profiler_legacy()
    return results, [peak for of_thread in records for peak in _peaks(of_thread)]


def _peaks(records: Iterable[Any]) -> Iterable[int]:
    """Of the calls marked in the records of one thread, in order."""
    marked, live, peak = None, 0, 0
    for record in records:
        kind = record.kind()
        if kind == "push" and record.name() == _MARK:
            marked, live, peak = record.handle(), 0, 0
        elif kind == "pop" and record.handle() == marked:
            yield peak
            marked = None
        elif kind == "memory_alloc":
            live += record.cpu_memory_usage()
            peak = max(peak, live)

"""What programs ask the standard library and PyTorch for that may be another answer next time.

``os.environ["SCALE"]`` and ``sys.argv`` are values like the user's own. ``os.getcwd()`` is asked again before a graph
is used again; ``time.time()`` is never the same, so the graph serves one call. Only what the user's own functions
name is looked at, not what libraries ask for themselves.
"""

from __future__ import annotations

import datetime
import decimal
import importlib
import locale
import os
import random
import secrets
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable
from typing import Any

import torch

from memograd import errors
from memograd.tracing.holders import MISSING
from memograd.tracing.kinds.kind import ANSWER, UNKNOWN, Kind
from memograd.tracing.kinds.libraries import DECIMALS, LOCALE, NUMPYS, NUMPYS_TEXTS

CALLED = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType, type)
_FLAGS = (bool, int, float, str)

Question = Kind | Callable[[], Any]  # what its answers are, or a function for what they are taken from
_NEVER_THE_SAME: list[Any] = [
    *(time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic, time.monotonic_ns),
    *(time.process_time, time.process_time_ns, time.thread_time, time.localtime, time.gmtime, time.ctime),
    *(datetime.datetime.now, datetime.datetime.utcnow, datetime.datetime.today, datetime.date.today),
    *(os.urandom, os.times, uuid.uuid1, uuid.uuid4, secrets.randbits, secrets.token_bytes, secrets.token_hex),
    *(secrets.choice, secrets.randbelow, random.SystemRandom, random.Random),
]
_ASKED_AGAIN: list[Any] = [
    *(os.getcwd, os.getpid, sys.getrecursionlimit, threading.active_count),
    *(torch.initial_seed, torch.is_anomaly_enabled, torch.are_deterministic_algorithms_enabled),
    *(torch.get_num_threads, torch.get_float32_matmul_precision, torch.get_deterministic_debug_mode),
]
_QUESTIONS: dict[Any, Question] = {
    **dict.fromkeys(_NEVER_THE_SAME, UNKNOWN),
    **dict.fromkeys(_ASKED_AGAIN, ANSWER),
    **dict.fromkeys((decimal.getcontext, decimal.setcontext, decimal.localcontext, decimal.Decimal), DECIMALS),
    **dict.fromkeys((locale.localeconv, locale.getlocale, locale.setlocale, locale.str, locale.currency), LOCALE),
    **dict.fromkeys((locale.format_string, locale.atof, locale.delocalize, locale.strcoll, locale.strxfrm), LOCALE),
    os.getenv: lambda: os.environ,
    importlib.import_module: lambda: sys.modules,
    __import__: lambda: sys.modules,
}
_OF_NUMPY = ("default_rng", "RandomState", "SeedSequence")  # of numpy.random, from the system's entropy if not seeded
_TEXTS_OF_NUMPY = ("array2string", "array_repr", "array_str", "get_printoptions", "printoptions", "set_printoptions")
_OWN = os.path.dirname(errors.__file__) + os.sep
_SWITCHES = "torch.backends"  # cuda.flash_sdp_enabled(), mha.get_fastpath_enabled()


def question(function: Any) -> Question | None:
    """What the answers of a function are; None for functions of their arguments alone."""
    try:
        asked = _QUESTIONS.get(function)
    except TypeError:  # no hash
        return None
    return asked or _of_numpy(function) or _of_switches(function)


def _of_numpy(function: Any) -> Question | None:
    """Whether NumPy raises for a division by zero, and how it writes numbers: as it is set."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or _module_of(function).partition(".")[0] != "numpy":
        return None
    if any(function is getattr(numpy.random, n) for n in _OF_NUMPY):
        return UNKNOWN
    return NUMPYS_TEXTS if any(function is getattr(numpy, n) for n in _TEXTS_OF_NUMPY) else NUMPYS


def _of_switches(function: Any) -> Question | None:
    of_a_switch = isinstance(function, types.FunctionType) and _module_of(function).startswith(_SWITCHES)
    return ANSWER if of_a_switch and function.__name__.endswith(("_enabled", "_allowed")) else None


def _module_of(function: Any) -> str:
    """Of a ufunc that of its class."""
    return str((function if isinstance(function, CALLED) else type(function)).__module__)


def named(owner: Any, chain: tuple[str, ...]) -> tuple[Any, str, Any]:
    """(holder, key, value): what ``os.environ.get`` or ``datetime.now`` name, but for methods of objects; the key is
    empty where nothing there could be another value next time."""
    holder, key, value = owner, "", owner
    for name in chain:
        if not isinstance(value, types.ModuleType | type):
            break
        holder, key, value = value, name, _attribute(value, name)
    if value is MISSING or isinstance(value, types.ModuleType):
        return holder, "", value
    flag = isinstance(value, _FLAGS)
    torchs = isinstance(holder, types.ModuleType) and holder.__name__.partition(".")[0] == "torch"
    if isinstance(value, CALLED):
        return holder, key if isinstance(holder, types.ModuleType) and not _is_ours(value) else "", value
    return holder, key if flag == torchs else "", value


def _is_ours(function: Any) -> bool:
    """One that stands in front of another for as long as a capture is under way."""
    code = getattr(function, "__code__", None)
    return _module_of(function).startswith("memograd") or (code is not None and code.co_filename.startswith(_OWN))


def _attribute(owner: Any, name: str) -> Any:
    """Without importing what is imported when it is first asked for."""
    if isinstance(owner, type):
        return getattr(owner, name, MISSING)
    if name in vars(owner):
        return vars(owner)[name]
    return getattr(owner, name, MISSING) if hasattr(vars(type(owner)).get(name), "__get__") else MISSING

"""The compiled pool: built once by the machine's C++ compiler, kept on disk, installed when it is there. With it comes
the loan of PyTorch's generator, which `run/bernoulli` draws from.

Nothing waits for it. The first step on a machine starts the compiler and goes on with PyTorch's own allocator; a later
one finds the library. ``MEMOGRAD_POOL=off`` leaves PyTorch's allocator and generator alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import torch

from memograd.c_compiler import UNFINISHED, cache_folder, is_whole, tidy, used
from memograd.errors import BackendError

SOURCES = tuple(Path(__file__).with_name(name) for name in ("pool.cpp", "generator.cpp"))
FLAGS = ("-O2", "-std=c++20", "-fPIC", "-shared", "-w")
_AGAIN = 3600.0  # seconds after which a compiler is asked again: the disk was full, a header was missing
_WAITING = "it is being compiled"
_REFUSALS = {1: "another allocator has taken PyTorch's place", 2: "the system gives no region of addresses"}


class Pool:
    """The library of this process, once it is installed.

    Attributes:
        library: None while it is not.
        reason: why not, in words; what it waits for.
    """

    def __init__(self) -> None:
        self.library: ctypes.CDLL | None = None
        self.reason = "no step was run yet"
        self._compiler: subprocess.Popen[bytes] | None = None
        self._settled = False
        self._turn = threading.Lock()

    def look(self) -> ctypes.CDLL | None:
        """The library if it can be had by now. Costs nothing once that is settled, either way."""
        if not self._settled:
            self._look()
        return self.library

    def wait(self) -> ctypes.CDLL | None:
        """The same, when the compiler is done."""
        self._look()
        if self._compiler is not None:
            self._compiler.wait()
            self._look()
        return self.library

    def _look(self) -> None:
        with self._turn:
            if self._settled or (self._compiler is not None and self._compiler.poll() is None):
                return
            try:
                why = unwanted() or self._get(built_at())
            except BackendError as error:
                why = str(error)
            self.reason = why or "installed"
            self._settled = why != _WAITING

    def _get(self, built: Path) -> str | None:
        failed = built.with_suffix(".failed")
        if is_whole(built):
            used(built)
            return self._install(built)
        if failed.exists() and (self._compiler is not None or time.time() - failed.stat().st_mtime < _AGAIN):
            return f"the C++ compiler refused it, see {failed}"
        if self._compiler is not None:
            return f"the C++ compiler left nothing at {built}"
        try:
            self._compiler = start(built)
        except OSError as error:
            return f"the C++ compiler did not run: {error}"
        return _WAITING

    def _install(self, built: Path) -> str | None:
        try:
            library = ctypes.PyDLL(str(built))  # keeps the GIL: each call is a fraction of a microsecond
        except OSError as error:
            return f"it cannot be loaded: {error}"
        library.pool_places.restype = ctypes.c_void_p
        library.pool_enter.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.pool_forget.argtypes = [ctypes.c_void_p]
        library.pool_leave.restype = ctypes.c_longlong
        library.pool_number.restype = ctypes.c_size_t
        if refused := library.pool_install():
            return _REFUSALS[refused]
        self.library = library
        return None


POOL = Pool()


def unwanted() -> str | None:
    """Why there is no pool on this machine, or none is wanted."""
    if os.environ.get("MEMOGRAD_POOL", "").lower() in ("off", "0", "no", "false"):
        return "MEMOGRAD_POOL says so"
    if not sys.platform.startswith("linux"):
        return f"it is written for Linux, and this is {sys.platform}"
    if compiler() is None:
        return "there is no C++ compiler: none of $CXX, c++, g++, clang++ was found"
    return None


@cache
def compiler() -> str | None:
    """The C++ compiler: $CXX if set, else the first of c++, g++, clang++."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def built_at() -> Path:
    """Where the library is, or will be: for this text, this compiler and this PyTorch."""
    texts = (source.read_text(encoding="utf-8") for source in SOURCES)
    parts = (*texts, str(compiler()), *FLAGS, torch.__version__, str(_new_strings()))
    return cache_folder() / f"pool-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.so"


def start(built: Path) -> subprocess.Popen[bytes]:
    """Compile into ``built``, in a process of its own that nobody need wait for, or even survive."""
    root, own = Path(torch.__file__).parent, built.with_name(f"{built.name}.{UNFINISHED}{secrets.token_hex(8)}")
    tidy(built.parent)
    cxx = compiler()
    assert cxx is not None
    command = [cxx, *FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={_new_strings()}", f"-I{root / 'include'}"]
    command += [*map(str, SOURCES), "-o", str(own), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"]
    words = '"$@" 2> "$0.failed" && mv "$0" "${0%.*}" && rm "$0.failed" || mv "$0.failed" "${0%.so.*}.failed"'
    gently = ["nice", "-n", "10"] if shutil.which("nice") else []
    return subprocess.Popen(
        ["sh", "-c", words, str(own), *gently, *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _new_strings() -> int:
    """Which of two layouts the standard library's strings have in PyTorch."""
    return int(torch.compiled_with_cxx11_abi())

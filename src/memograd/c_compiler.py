"""From C text to a loaded library: find a compiler, compile once, keep the result in a folder of the user's own."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from memograd.errors import BackendError

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None

# -O2 with vectorized loops: -O3 also unrolls every loop of constant length, which costs seconds in small graphs.
# No -ffast-math and no contraction to fused multiply-adds: NaN, infinity and x*x - x*x must come out as PyTorch's do.
FLAGS = ("-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd",
         "-fno-strict-aliasing", "-std=gnu11", "-w", "-fPIC", "-shared")  # fmt: skip
TIMEOUT = 120  # seconds for one compiler run

UNFINISHED = "unfinished-"  # in the name of what is being written
_HOURS = 2 * 3600.0
_TEMPORARY = "memograd-process-"

_loaded: dict[str, ctypes.CDLL] = {}


@cache
def compiler() -> str | None:
    """The C compiler: $CC if set, else the first of cc, gcc, clang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    return None


def load(source: str) -> ctypes.CDLL:
    """The library that ``source`` compiles to.

    Raises:
        BackendError: no compiler, or it fails.
    """
    cc = compiler()
    if cc is None:
        raise BackendError("the native backend needs a C compiler: none of $CC, cc, gcc, clang was found; install one "
                           "or use another backend")  # fmt: skip
    key = hashlib.sha256("\0".join((source, cc, *FLAGS, machine())).encode()).hexdigest()[:32]
    if key not in _loaded:
        path = cache_folder() / f"{key}.so"
        if not path.exists():
            _compile(cc, source, path)
        _loaded[key] = _library(cc, source, path)
    return _loaded[key]


def _library(cc: str, source: str, path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # what lies there was damaged, by a full disk or a crash
        _compile(cc, source, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"what the C compiler made cannot be loaded (set MEMOGRAD_CACHE to another folder if this "
                           f"one does not allow it): {error}") from error  # fmt: skip


def cache_folder() -> Path:
    """Where libraries are kept: $MEMOGRAD_CACHE, the platform's cache folder, or one for this process alone.

    What lies there is loaded as code, so a folder that others may write to is refused.
    """
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if _private(folder) and os.access(folder, os.W_OK):
            return folder
    return _private_temporary()


def _candidates() -> list[Path]:
    if own := os.environ.get("MEMOGRAD_CACHE"):
        return [Path(own) / "native"]
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [base / "memograd" / "native", Path(tempfile.gettempdir()) / f"memograd-{user}"]


def _private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    info = folder.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022


@cache
def _private_temporary() -> Path:
    """A folder that goes when this process does. One that is killed leaves it: the next that needs one clears it."""
    folders = " and ".join(map(str, _candidates()))
    warnings.warn(f"what is compiled is kept for this process only: others may write to {folders}, or this user may "
                  "not; set MEMOGRAD_CACHE to a folder of your own", stacklevel=3)  # fmt: skip
    if fcntl is not None:
        for left in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
            if _private(left) and (held := _hold(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    while fcntl is not None and _hold(folder) is None:  # another process has just taken it for one that was left
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _hold(folder: Path) -> int | None:
    """The lock on a folder, which ends with the process that holds it, however that ends; None: another one has it."""
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
    except OSError:
        pass
    if handle is not None:
        os.close(handle)
    return None


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not one that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


@cache
def clear_unfinished(folder: Path) -> None:
    """What processes left in a folder of libraries that were killed while they wrote it, hours ago: ours take minutes
    at most, by the clock of who keeps the folder."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(prefix=UNFINISHED, dir=folder) as new:
        latest = os.fstat(new.fileno()).st_mtime - _HOURS
        for entry in os.scandir(folder):
            if UNFINISHED in entry.name and entry.stat(follow_symlinks=False).st_mtime < latest:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.remove(entry.path)


@cache
def machine() -> str:
    """What -march=native depends on: a cache folder may be shared by different computers."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = sorted({line for line in file if line.startswith(("flags", "model name", "Features"))})
    except OSError:
        flags = [platform.processor(), platform.node()]
    return "\n".join((platform.system(), platform.machine(), *flags))


def _compile(cc: str, source: str, path: Path) -> None:
    """Compile into ``path``; another process that does the same at the same time does no harm."""
    clear_unfinished(path.parent)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
        text, library = Path(folder) / "step.c", Path(folder) / "step.so"
        text.write_text(source)
        error = ""
        for tuning in (["-march=native"], []):  # not every compiler knows it
            try:
                done = subprocess.run(
                    [cc, *FLAGS, *tuning, str(text), "-o", str(library), "-lm"],
                    capture_output=True, text=True, timeout=TIMEOUT,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as problem:
                raise BackendError(f"the C compiler {cc} did not run: {problem}") from problem
            if done.returncode == 0:
                os.replace(library, path)
                return
            error = done.stderr
    raise BackendError(f"the C compiler {cc} refused the generated code: {error[-2000:]}")

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
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from memograd.cautions import caution
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
LIMIT = 512 * 2**20  # bytes that a folder may hold when a process begins to write to it; see MEMOGRAD_CACHE_BYTES
_BLOCK = 4096  # bytes that the smallest file takes
_TEMPORARY = "memograd-process-"

_loaded: dict[str, ctypes.CDLL] = {}


@cache
def compiler() -> str | None:
    """The C compiler: $CC if set, else the first of cc, gcc, clang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    return None


def load(source: str, contracted: bool = False) -> ctypes.CDLL:
    """The library that ``source`` compiles to; ``contracted``: with fused multiply-adds, for long sums of products.

    Raises:
        BackendError: no compiler, or it fails.
    """
    cc = compiler()
    if cc is None:
        raise BackendError("the native backend needs a C compiler: none of $CC, cc, gcc, clang was found; install one "
                           "or use another backend")  # fmt: skip
    flags = (*FLAGS, "-ffp-contract=fast") if contracted else FLAGS
    key = hashlib.sha256("\0".join((source, cc, *flags, machine())).encode()).hexdigest()[:32]
    if key not in _loaded:
        path = cache_folder() / f"{key}.so"
        try:
            if not is_whole(path):
                _compile(cc, flags, source, path)
            _loaded[key] = _library(cc, flags, source, path)
        except OSError as error:  # a disk that is full
            raise BackendError(f"what is compiled cannot be written to {path.parent}: {error}; set MEMOGRAD_CACHE to "
                               "another folder") from error  # fmt: skip
        used(path)
    return _loaded[key]


def is_whole(path: Path) -> bool:
    """Whether a library lies there to its end. The system loads one that was cut off as well, and ends the process
    where it reads on; but a library of Linux says where its last table ends."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    if not sys.platform.startswith("linux"):
        return size > 0
    if len(head) < 64 or head[:4] != b"\x7fELF":
        return False
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    [table] = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 40 if wide else 32)
    each, count = struct.unpack_from(f"{order}HH", head, 58 if wide else 46)
    return size >= table + each * count > 0


def used(path: Path) -> None:
    """Say that a file was of use now: what was not for the longest time goes first where there is too much."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _library(cc: str, flags: Sequence[str], source: str, path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # what lies there was damaged, by a full disk or a crash
        _compile(cc, flags, source, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"what the C compiler made cannot be loaded (set MEMOGRAD_CACHE to another folder if this "
                           f"one does not allow it): {error}") from error  # fmt: skip


def cache_folder() -> Path:
    """Where libraries are kept: $MEMOGRAD_CACHE, the platform's cache folder, or one for this process alone.

    What lies there is loaded as code, so a folder that others may write to is refused.

    Raises:
        BackendError: nothing can be written anywhere.
    """
    for folder in _candidates():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _private(folder) and os.access(folder, os.W_OK):
                return folder
    try:
        return _private_temporary()
    except OSError as error:
        raise BackendError(f"there is nowhere to keep what is compiled, set MEMOGRAD_CACHE to a folder of your own: "
                           f"{error}") from error  # fmt: skip


def _candidates() -> list[Path]:
    if own := os.environ.get("MEMOGRAD_CACHE"):
        return [Path(own) / "native"]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    bases = []
    with contextlib.suppress(RuntimeError):  # the user has no home
        if sys.platform == "darwin":
            bases.append(Path.home() / "Library" / "Caches")
        else:
            bases.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
    folders = [base / "memograd" / "native" for base in bases]
    with contextlib.suppress(OSError):  # there is no folder for temporary files
        folders.append(Path(tempfile.gettempdir()) / f"memograd-{user}")
    return folders


def _private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    info = folder.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022


@cache
def _private_temporary() -> Path:
    """A folder that goes when this process does. One that is killed leaves it: the next that needs one clears it."""
    folders = " and ".join(map(str, _candidates()))
    caution(f"what is compiled is kept for this process only: others may write to {folders}, or this user may "
                  "not; set MEMOGRAD_CACHE to a folder of your own")  # fmt: skip
    if fcntl is not None:
        for abandoned in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
            if _private(abandoned) and (lock := _hold(abandoned)) is not None:
                shutil.rmtree(abandoned, ignore_errors=True)
                os.close(lock)
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
def tidy(folder: Path) -> None:
    """Once a process: what others left behind, and what is too much."""
    _clear_unfinished(folder)
    _keep_within(folder, limit())


def limit() -> int:
    """Bytes that a folder may hold: $MEMOGRAD_CACHE_BYTES, as budgets are written in bytes, or 512 MiB."""
    number = os.environ.get("MEMOGRAD_CACHE_BYTES", "")
    return int(number) if number.isdigit() else LIMIT


def _keep_within(folder: Path, most: int) -> None:
    """Remove files, those first that were not used for the longest time, until the rest takes no more than ``most``
    bytes. Who has loaded one keeps it."""
    files: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # another process was faster
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(info.st_mode) and UNFINISHED not in entry.name:
                    files.append((info.st_mtime, max(info.st_size, _BLOCK), entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most:
            break
        with contextlib.suppress(OSError):
            os.remove(path)
        total -= size


def _clear_unfinished(folder: Path) -> None:
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


def _compile(cc: str, flags: Sequence[str], source: str, path: Path) -> None:
    """Compile into ``path``; another process that does the same at the same time does no harm."""
    tidy(path.parent)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
        text, library = Path(folder) / "step.c", Path(folder) / "step.so"
        text.write_text(source)
        error = ""
        for tuning in (["-march=native"], []):  # not every compiler knows it
            try:
                compiler = subprocess.run(
                    [cc, *flags, *tuning, str(text), "-o", str(library), "-lm"],
                    capture_output=True, text=True, timeout=TIMEOUT,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as problem:
                raise BackendError(f"the C compiler {cc} did not run: {problem}") from problem
            if compiler.returncode == 0:
                os.replace(library, path)
                return
            error = compiler.stderr
    raise BackendError(f"the C compiler {cc} refused the generated code: {error[-2000:]}")

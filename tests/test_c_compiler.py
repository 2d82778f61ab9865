"""Libraries that are kept on disk: one that is damaged is made again, one that cannot be loaded is no library."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memograd import c_compiler
from memograd.errors import BackendError

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")

SOURCE = "int seven(void) { return 7; }"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))
    monkeypatch.setattr(c_compiler, "_loaded", {})
    return tmp_path / "native"


def test_a_damaged_library_is_compiled_again(folder, monkeypatch) -> None:
    monkeypatch.setattr(c_compiler, "_compile", lambda cc, source, path: path.write_bytes(b""))
    with pytest.raises(BackendError, match="cannot be loaded"):
        c_compiler.load(SOURCE)
    monkeypatch.undo()
    monkeypatch.setenv("MEMOGRAD_CACHE", str(folder.parent))
    [library] = folder.iterdir()
    assert library.read_bytes() == b""
    assert c_compiler.load(SOURCE).seven() == 7


def test_a_folder_that_no_code_is_loaded_from_is_a_backend_error(monkeypatch) -> None:
    def refused(path: str) -> None:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(ctypes, "CDLL", refused)
    with pytest.raises(BackendError, match=r"MEMOGRAD_CACHE.*failed to map segment"):
        c_compiler.load(SOURCE)


# A process whose cache folder is refused, as others may write to it; without the rest of the package, to be quick.
REFUSED = """
import os, sys, tempfile, types, warnings
package = types.ModuleType("memograd")
package.__path__ = [sys.argv[1]]
sys.modules["memograd"] = package
from memograd import c_compiler
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    folder = c_compiler.cache_folder()
assert "MEMOGRAD_CACHE" in str(said[0].message)
(folder / "library.so").touch()
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def refused(tmp_path, monkeypatch):
    folder = tmp_path / "shared" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("MEMOGRAD_CACHE", str(folder.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    processes = []

    def start() -> tuple[subprocess.Popen, Path]:
        command = [sys.executable, "-c", REFUSED, str(Path(c_compiler.__file__).parent)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1], Path(processes[-1].stdout.readline().strip())

    yield start
    for process in processes:
        process.communicate("")


@pytest.mark.skipif(os.name != "posix", reason="folders are private by their modes")
def test_a_folder_for_one_process_goes_with_it_and_if_it_is_killed_with_the_next(refused) -> None:
    (killed, first), (alive, second) = refused(), refused()
    assert first.exists() and second.exists() and first != second
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (first / "library.so").exists()
    ended, third = refused()
    assert not first.exists() and (second / "library.so").exists() and third.exists()
    ended.communicate("")
    assert not third.exists()
    alive.communicate("")
    assert not second.exists()


def test_what_a_killed_compiler_left_is_cleared_hours_later(folder) -> None:
    folder.mkdir()
    old, new, library = (folder / name for name in ("unfinished-a", "unfinished-b", "c.so"))
    for path in (old, new):
        path.mkdir()
        (path / "step.c").touch()
    piece = folder / "pool-1.so.unfinished-d"
    piece.touch()
    library.touch()
    for path in (old, library, piece):
        os.utime(path, (0, 0))
    c_compiler.load(SOURCE)
    assert new.exists() and library.exists() and not old.exists() and not piece.exists()

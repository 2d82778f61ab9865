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
    monkeypatch.setattr(c_compiler, "_compile", lambda cc, flags, source, path: path.write_bytes(b""))
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_library_that_was_cut_off_is_compiled_again(folder, monkeypatch, share) -> None:
    c_compiler.load(SOURCE)
    [library] = folder.iterdir()
    whole = library.read_bytes()
    library.unlink()  # this process has it
    library.write_bytes(whole[: int(share * len(whole))])
    assert not c_compiler.is_whole(library)
    monkeypatch.setattr(c_compiler, "_loaded", {})
    assert c_compiler.load(SOURCE).seven() == 7
    assert c_compiler.is_whole(library)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files")
def test_what_is_no_library_is_compiled_again(folder, monkeypatch) -> None:
    c_compiler.load(SOURCE)
    [library] = folder.iterdir()
    library.unlink()
    library.write_bytes(b"junk" * 100)
    monkeypatch.setattr(c_compiler, "_loaded", {})
    assert c_compiler.load(SOURCE).seven() == 7


def test_a_full_disk_is_a_backend_error(folder, monkeypatch) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(c_compiler.tempfile, "TemporaryDirectory", full)
    with pytest.raises(BackendError, match=r"No space left.*MEMOGRAD_CACHE"):
        c_compiler.load(SOURCE)
    assert not list(folder.iterdir())


def test_a_user_without_a_home_has_a_folder_among_temporary_files(tmp_path, monkeypatch) -> None:
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MEMOGRAD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(c_compiler.tempfile, "gettempdir", lambda: str(tmp_path))
    assert c_compiler.cache_folder().parent == tmp_path


def test_where_nothing_can_be_written_there_is_a_backend_error(monkeypatch) -> None:
    def refused(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(c_compiler.tempfile, "mkdtemp", refused)
    c_compiler._private_temporary.cache_clear()
    with pytest.warns(UserWarning), pytest.raises(BackendError, match="nowhere to keep"):
        c_compiler.load(SOURCE)


def test_what_was_not_used_for_the_longest_time_goes_first(folder, monkeypatch) -> None:
    folder.mkdir()
    for age, name in enumerate(("newest.so", "times-middle.json", "oldest.so")):
        (folder / name).write_bytes(b"x" * 10_000)
        os.utime(folder / name, (10**9 - age, 10**9 - age))
    c_compiler.used(folder / "oldest.so")
    monkeypatch.setenv("MEMOGRAD_CACHE_BYTES", "25000")
    c_compiler.load(SOURCE)
    assert {f.name for f in folder.iterdir()} >= {"newest.so", "oldest.so"}
    assert not (folder / "times-middle.json").exists()


def test_two_processes_that_compile_the_same_at_once_both_have_it(folder) -> None:
    program = f"from memograd import c_compiler; assert c_compiler.load({SOURCE!r}).seven() == 7"
    package = (
        "import sys, types; p = sys.modules['memograd'] = types.ModuleType('memograd'); p.__path__ = [sys.argv[1]]"
    )
    command = [sys.executable, "-c", f"{package}; {program}", str(Path(c_compiler.__file__).parent)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [p.wait() for p in processes] == [0, 0, 0]
    assert len(list(folder.iterdir())) == 1

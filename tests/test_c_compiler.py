"""Libraries that are kept on disk: one that is damaged is made again, one that cannot be loaded is no library."""

import ctypes

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

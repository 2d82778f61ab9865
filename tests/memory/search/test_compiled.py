"""Machine code that was kept on disk is not used after any part of it has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from memograd.memory.search import anneal, compiled, moves, timeline


@pytest.mark.skipif(not compiled.COMPILED, reason="numba is not installed")
def test_the_name_under_which_code_is_kept_covers_all_files_it_is_made_of() -> None:
    """Numba looks for changes in the file of the outermost function only."""
    folder = Path(str(compiled.__file__)).parent
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    version = hashlib.sha256(b"".join(texts)).hexdigest()[:12]
    kept = [f for m in (timeline, moves, anneal) for f in vars(m).values() if hasattr(f, "py_func")]
    assert len(kept) > 10
    assert all(f.py_func.__qualname__.endswith(version) for f in kept)
    assert {Path(f.py_func.__code__.co_filename).parent for f in kept} == {folder}, "code of another folder is compiled"

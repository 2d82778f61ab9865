"""Machine code that was kept on disk is not used after any part of it has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from memograd.plan import compiled, moves, search, timeline


@pytest.mark.skipif(not compiled.COMPILED, reason="numba is not installed")
def test_the_name_under_which_code_is_kept_covers_all_files_it_is_made_of() -> None:
    """Numba looks for changes in the file of the outermost function only."""
    texts = [Path(str(module.__file__)).read_bytes() for module in (timeline, moves, search)]
    version = hashlib.sha256(b"".join(texts)).hexdigest()[:12]
    kept = [f for m in (timeline, moves, search) for f in vars(m).values() if hasattr(f, "py_func")]
    assert len(kept) > 10
    assert all(f.py_func.__qualname__.endswith(version) for f in kept)
    compiled_in = {f.py_func.__module__ for f in kept}
    assert compiled_in == {timeline.__name__, moves.__name__, search.__name__}, "no other file's functions are compiled"

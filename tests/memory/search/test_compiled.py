"""The search in C takes the very steps of the one in Python; machine code that was kept on disk is not used after any
part of it has changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import drawing, random_problem

from memograd import c_compiler
from memograd.memory.problem import simulate
from memograd.memory.search import anneal, compiled, moves, timeline
from memograd.memory.search.moves import DEPTH, NOTHING, TRIES

in_c = pytest.mark.skipif(compiled.library() is None, reason="no C compiler on this machine")


def same(first: timeline.Timeline, second: timeline.Timeline) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@in_c
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(2, 20), st.floats(0.3, 1.2), st.booleans())
def test_both_forms_take_the_same_steps(seed: int, operators: int, share: float, reorder: bool) -> None:
    library = compiled.library()
    assert library is not None
    problem = drawing(random_problem(seed, operators), seed)
    budget = int(share * simulate(problem, range(operators)).peak)
    python, c = (timeline.timeline(problem, range(operators), budget) for _ in range(2))
    states = [np.array([1 + seed % 1000], np.int64) for _ in range(2)]
    undos = [np.zeros((TRIES * DEPTH, 2), np.int64) for _ in range(2)]
    done = compiled.Change()
    for step in range(60):
        dearest = float(step % 5)
        expected = moves.change(python, states[0], undos[0], reorder, dearest)
        places = states[1].ctypes.data, undos[1].ctypes.data
        library.loaded.change(compiled.on(c), *places, reorder, dearest, compiled.ctypes.byref(done))
        assert (done.kind, done.slot, done.added, done.removed, done.extra) == expected
        assert states[0] == states[1] and same(python, c) and np.array_equal(*undos)
        if done.kind != NOTHING and step % 3 == 0:
            moves.step_back(python, undos[0], *expected[:4])
            library.loaded.step_back(compiled.on(c), undos[1].ctypes.data, *expected[:4])
            assert same(python, c)


@in_c
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_both_forms_find_the_same_schedules(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(5, 40)
    budget = int(share * simulate(problem, range(40)).peak)

    def searched() -> list[Any]:
        start = range(40)
        return [
            anneal.anneal(problem, start, budget, 2000, seed=3),
            anneal.reorder(problem, start, budget, 300),
            anneal.fit(problem, start, budget, 600),
        ]

    in_c = searched()
    for module in (anneal, timeline):
        monkeypatch.setattr(module, "library", lambda: None)
    assert searched() == in_c and in_c[1] != list(range(40))


def test_random_numbers_are_lehmers() -> None:
    state = np.array([1], np.int64)
    for _ in range(10_000):
        moves.draw(state, 2)
    assert state[0] == 399268537, "Park & Miller, Random number generators (1988), with multiplier 48271"


def test_without_a_compiler_schedules_are_found_all_the_same() -> None:
    """Neither a C compiler nor Numba, in a process of its own: what is decided there is decided at import."""
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        sys.modules["numba"] = None
        from memograd import c_compiler
        c_compiler.compiler = lambda: None
        from problems import random_problem
        from memograd.memory.problem import simulate
        from memograd.memory.search import compiled, solve
        assert not compiled.COMPILED and solve.EFFORT == 20
        problem = random_problem(5, 30)
        peak = simulate(problem, range(30)).peak
        schedule = solve.solve(problem, int(0.8 * peak))
        assert simulate(problem, schedule).peak <= int(0.8 * peak) < peak
        print("within the budget")
    """
    helpers = str(Path(__file__).parent.parent)
    printed = subprocess.run([sys.executable, "-c", code, helpers], capture_output=True, text=True)
    assert printed.stdout.strip() == "within the budget", printed.stderr


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compiler, "compiler", lambda: "/nonexistent/cc")
    monkeypatch.setattr(c_compiler, "_loaded", {})
    assert compiled.library.__wrapped__() is None


def test_the_name_under_which_numba_keeps_code_covers_all_files_it_is_made_of() -> None:
    """Numba looks for changes in the file of the outermost function only."""
    folder = Path(str(compiled.__file__)).parent
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    version = hashlib.sha256(b"".join(texts)).hexdigest()[:12]

    def function() -> None:
        pass

    kept = compiled.by_numba(function, lambda **settings: lambda f: (f, settings))
    assert kept[0].__qualname__.endswith(version) and kept[1]["cache"] and kept[1]["nogil"]
    assert len(compiled.DECORATED) > 10
    assert {Path(f.__code__.co_filename).parent for f in compiled.DECORATED} == {folder}, "code of another folder"

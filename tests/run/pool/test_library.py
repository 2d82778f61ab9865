"""The pool's library: compiled once, kept, refused where it cannot or must not be."""

import os

import pytest
import torch

from memograd.run.pool import library
from memograd.run.pool.library import Pool, built_at, start


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    built = tmp_path / "pool-test.so"
    monkeypatch.setattr(library, "built_at", lambda: built)
    return built


def test_the_library_is_named_after_all_that_it_depends_on(monkeypatch):
    names = {built_at.__wrapped__().name}
    monkeypatch.setattr(torch, "__version__", "2.11.5")
    names.add(built_at.__wrapped__().name)
    monkeypatch.setattr(library, "FLAGS", ("-O1",))
    names.add(built_at.__wrapped__().name)
    assert len(names) == 3


def test_it_is_not_wanted_where_the_user_says_so(monkeypatch):
    monkeypatch.setenv("MEMOGRAD_POOL", "off")
    pool = Pool()
    assert pool.wait() is None and "MEMOGRAD_POOL" in pool.reason


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(library, "compiler", lambda: None)
    pool = Pool()
    assert pool.wait() is None and "C++ compiler" in pool.reason


@pytest.mark.skipif(library.unwanted() is not None, reason="no pool here")
def test_a_compiler_that_refuses_is_asked_once(elsewhere, monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("--no-such-option",))
    pool = Pool()
    assert pool.look() is None and pool.reason == "it is being compiled"
    assert pool.wait() is None and "refused" in pool.reason
    assert "no-such-option" in elsewhere.with_suffix(".failed").read_text()
    assert sorted(p.name for p in elsewhere.parent.iterdir()) == ["pool-test.failed"]
    with monkeypatch.context() as no_compiler:
        no_compiler.setattr(library, "start", lambda built: pytest.fail("the compiler was started again"))
        assert Pool().wait() is None
    os.utime(elsewhere.with_suffix(".failed"), (0, 0))  # hours later the disk may have room, or a header be there
    pool = Pool()
    assert pool.look() is None and pool.reason == "it is being compiled"
    assert pool.wait() is None and "refused" in pool.reason


def test_what_cannot_be_loaded_is_no_pool(elsewhere, monkeypatch):
    monkeypatch.setattr(library, "is_whole", lambda path: True)
    elsewhere.write_bytes(b"not a library")
    pool = Pool()
    assert pool.wait() is None and (library.unwanted() or "cannot be loaded" in pool.reason)


@pytest.mark.slow
@pytest.mark.skipif(library.unwanted() is not None, reason="no pool here")
def test_what_is_no_library_is_compiled_again(elsewhere):
    elsewhere.write_bytes(b"not a library")
    Pool().wait()
    assert library.is_whole(elsewhere)


@pytest.mark.slow
@pytest.mark.skipif(library.unwanted() is not None, reason="no pool here")
def test_the_compiler_leaves_one_file(elsewhere):
    assert start(elsewhere).wait() == 0
    assert [p.name for p in elsewhere.parent.iterdir()] == ["pool-test.so"]


@pytest.mark.skipif(library.POOL.wait() is None, reason="no pool here")
def test_an_allocator_that_was_there_first_stays():
    second = Pool()
    assert second.wait() is None and "another allocator" in second.reason

"""Masks of dropout are those that PyTorch draws from the same seed; the generator stands where PyTorch leaves it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from memograd import ops
from memograd._torch import state_of
from memograd.pipeline import capture_for
from memograd.run import bernoulli
from memograd.run.pool import library
from memograd.run.pool.library import POOL

DTYPES = (torch.float32, torch.float64, torch.bool)


@pytest.fixture
def compiled():
    if library.unwanted() is not None or POOL.wait() is None or not all(map(bernoulli._agrees, DTYPES)):
        pytest.skip("PyTorch draws for itself here")


def drawn(draw, words=0):
    """What is drawn, and the numbers that follow; ``words`` of the generator are used up before."""
    torch.manual_seed(11)
    torch.randint(7, (words,))
    return draw(), torch.randn(5), torch.rand(3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 1e-17, 0.1, 1 / 3, 0.9, 1.0])
def test_a_mask_is_what_pytorch_draws(compiled, monkeypatch, dtype, p):
    like = torch.empty(61, 97, dtype=dtype)
    expected = {words: drawn(lambda: torch.empty_like(like).bernoulli_(p), words) for words in (0, 1, 622, 623, 624)}
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda *_, **__: pytest.fail("PyTorch drew"))
    for words, values in expected.items():
        torch.testing.assert_close(drawn(lambda: ops.bernoulli(like, p), words), values, rtol=0, atol=0)


def test_what_the_loop_does_not_draw_pytorch_draws(compiled):
    images = torch.empty(8, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    for like in (images, torch.empty(3), torch.empty(4096, dtype=torch.bfloat16), torch.empty(64, 64).t()):
        expected = drawn(lambda like=like: torch.empty_like(like).bernoulli_(0.4))
        values = drawn(lambda like=like: ops.bernoulli(like, 0.4))
        assert values[0].stride() == expected[0].stride()
        torch.testing.assert_close(values, expected, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="p"):
        ops.bernoulli(torch.empty(5000), 1.5)


def test_a_mask_of_a_generator_of_its_own(compiled, monkeypatch):
    own, other = (torch.Generator().manual_seed(5) for _ in range(2))
    expected, before = torch.empty(5000).bernoulli_(0.4, generator=other), torch.get_rng_state()
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda *_, **__: pytest.fail("PyTorch drew"))
    assert torch.equal(ops.bernoulli(torch.empty(5000), 0.4, generator=own), expected)
    assert torch.equal(own.get_state(), other.get_state()) and torch.equal(torch.get_rng_state(), before)


def test_where_pytorch_draws_in_another_way_the_loop_is_not_used(compiled, monkeypatch):
    bernoulli._compared.cache_clear()
    monkeypatch.setattr(bernoulli, "_LOOP", bernoulli._LOOP.replace("y >> 18", "y >> 17"))
    bernoulli._loop.cache_clear()
    assert not bernoulli._agrees(torch.float32)
    monkeypatch.undo()
    bernoulli._loop.cache_clear()
    bernoulli._compared.cache_clear()
    assert bernoulli._agrees(torch.float32)


def test_threads_that_draw_at_once_draw_different_numbers(compiled):
    like = torch.empty(20_000)
    torch.manual_seed(3)
    apart = {tuple(torch.empty_like(like).bernoulli_(0.5).nonzero().flatten().tolist()[:40]) for _ in range(24)}
    torch.manual_seed(3)
    with ThreadPoolExecutor(4) as threads:
        masks = list(threads.map(lambda _: ops.bernoulli(like, 0.5), range(24)))
    assert {tuple(mask.nonzero().flatten().tolist()[:40]) for mask in masks} == apart


def test_the_comparison_moves_no_generator_while_a_program_is_captured(compiled):
    """Its seeds counted as the program's, and what a program drew while it was captured was not what its graph drew."""

    def program(x):
        before = state_of(torch.default_generator)
        bernoulli._compared.cache_clear()
        assert bernoulli._compared(torch.float32)
        assert state_of(torch.default_generator) == before
        return x * torch.rand(())

    capture_for(program, (torch.ones(2),), {}, [], concrete=True)

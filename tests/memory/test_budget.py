"""Budgets as people write them."""

from __future__ import annotations

import pytest

import memograd as mg
from memograd.memory.budget import human, parse_budget


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (8589934592, 8589934592),
        (2**63 + 1, 2**63 + 1),
        ("8589934592", 8589934592),
        ("8GiB", 8 * 1024**3),
        ("8 gib", 8 * 1024**3),
        ("600MB", 600_000_000),
        ("1.5KiB", 1536),
        ("2kb", 2000),
        ("1TB", 10**12),
        ("3B", 3),
        (" 50% ", 500),
        ("12.5%", 125),
        ("120%", 1200),
    ],
)
def test_what_people_write(text: int | str, size: int) -> None:
    assert parse_budget(text, 1000) == size


@pytest.mark.parametrize(
    "text", [0, -1, True, "", "0", "0%", "-5MB", "8Gb/s", "GiB", "half", "8 G i B", "1e9", "50 %x"]
)
def test_what_is_not_understood_is_refused(text: int | str) -> None:
    with pytest.raises(mg.MemogradError, match="not understood"):
        parse_budget(text, 1000)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536 * 1024, "1.50 MiB"), (5 * 1024**3, "5.00 GiB")],
)
def test_as_people_read_it(size: int, text: str) -> None:
    assert human(size) == text

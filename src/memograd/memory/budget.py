"""Budgets as people write them: bytes, "8GiB", "600MB", or a share of what the unplanned step needs."""

from __future__ import annotations

import re

from memograd.errors import DataError

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {f"{_letter}IB": 1024**_power, f"{_letter}B": 1000**_power}


def parse_budget(budget: float | str, whole: int) -> int:
    """The budget in bytes; ``whole`` is what 100% means.

    Raises:
        DataError: not a positive number of bytes.
    """
    if isinstance(budget, float) and budget.is_integer():
        budget = int(budget)  # 2e9
    text = "" if isinstance(budget, (bool, float)) else str(budget).strip()
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*|%)", text)
    number, unit = (float(match[1]), match[2].upper()) if match else (0.0, "")
    if number <= 0 or (unit != "%" and unit not in _UNITS):
        raise DataError(
            f"memory budget {budget!r} is not understood: give bytes (8589934592), '8GiB', '600MB' or '50%' of the "
            "unplanned peak"
        )
    if unit == "%":
        return int(whole * number / 100)
    return int(budget) if isinstance(budget, int) else int(number * _UNITS[unit])


def human(size: int) -> str:
    """``1.50 GiB``; small sizes in bytes."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if abs(size) >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} B"

"""States of whole libraries: how decimal numbers are computed, what NumPy makes of errors, how texts are written."""

from __future__ import annotations

import abc
import decimal
import locale
import sys
from collections.abc import Iterable
from typing import Any

from memograd._torch import parametrized_values
from memograd.tracing.kinds.kind import Kind

PARAMETRIZED = Kind(lambda _: _parametrized())  # what ``parametrize.cached()`` keeps
DECIMALS = Kind(  # how decimal numbers are computed
    lambda _: digits(decimal.getcontext()), lambda _, state: set_digits(decimal.getcontext(), state)
)
NUMPYS = Kind(lambda _: _of_numpy().geterr(), lambda _, state: _of_numpy().seterr(**state))  # what it makes of errors
NUMPYS_TEXTS = Kind(lambda _: repr(_of_numpy().get_printoptions()))
LOCALE = Kind(lambda _: (locale.localeconv(), locale.setlocale(locale.LC_ALL)))
REGISTERED = Kind(lambda _: abc.get_cache_token())  # which classes count as which abstract ones
OF_A_LIBRARY = (DECIMALS, NUMPYS, NUMPYS_TEXTS, LOCALE)  # one state for all that the program asks of it
BIG = Kind(lambda container: _numbers(container.values() if isinstance(container, dict) else container))


def _parametrized() -> tuple[Any, ...]:
    values = parametrized_values()
    return ("off",) if values is None else tuple([(key, id(tensor)) for key, tensor in values.items()])


_OF_DECIMALS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def digits(context: decimal.Context) -> tuple[Any, ...]:
    return tuple([getattr(context, name) for name in _OF_DECIMALS])


def set_digits(context: decimal.Context, state: tuple[Any, ...]) -> None:
    for name, value in zip(_OF_DECIMALS, state, strict=True):
        setattr(context, name, value)


def _of_numpy() -> Any:
    return sys.modules["numpy"]


def _numbers(values: Iterable[Any]) -> tuple[Any, ...]:
    return (*map(type, values), *values)

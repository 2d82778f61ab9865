"""Every transform that a test calls is compared with PyTorch, the first time each of its programs is made; and of tests
that are one table long, ``make test`` runs a seeded sample."""

import math
import os
import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

# before memograd is imported; processes that tests start have both, too
os.environ.setdefault("MEMOGRAD_CHECK", "1")
# Inductor's vectors are those that the processor says it has: to try them, each process compiles and loads five files
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")


@pytest.hookimpl(tryfirst=True)  # before ``-m`` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``@pytest.mark.one_in(n)``: of a parametrized test all cases but a sample of one in n are slow."""
    sampled = [item for item in items if item.get_closest_marker("one_in")]
    for function, cases in groupby(sampled, lambda item: item.nodeid.split("[")[0]):
        cases = sorted(cases, key=lambda item: item.nodeid)
        marker = cases[0].get_closest_marker("one_in")
        count = math.ceil(len(cases) / marker.args[0]) if marker else 0
        for case in set(cases) - set(random.Random(function).sample(cases, count)):
            case.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def short_searches(request: pytest.FixtureRequest) -> Iterator[None]:
    """``make test`` searches for a schedule a second time, and longer, in the tests of the search alone: what holds for
    a schedule holds however long one has looked for it."""
    if request.config.option.markexpr != "not slow" or Path(__file__).parent / "memory" in request.path.parents:
        yield
        return
    from memograd.memory.search import solutions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solutions, "_EFFORTS", solutions._EFFORTS[:1])
        yield

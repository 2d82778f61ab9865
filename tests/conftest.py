"""Every transform that a test calls is compared with PyTorch, the first time each of its programs is made; and of tests
that are one table long, ``make test`` runs a seeded sample."""

import math
import os
import random
from itertools import groupby

import pytest

os.environ.setdefault("MEMOGRAD_CHECK", "1")  # before memograd is imported; processes that tests start have it, too


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

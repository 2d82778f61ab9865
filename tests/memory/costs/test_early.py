"""Updates move to behind what they wait for; everything else stays in its order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memograd.errors import GraphError
from memograd.memory.costs.early import early


def test_an_update_follows_its_gradient() -> None:
    # 0 -> 1 -> 2 (gradient a) -> 3 (gradient b); 4: update of b; 5: update of a; 6 shared by both
    needs = [[], [0], [1], [2], [3, 6], [2, 6], []]
    assert early(needs, [False] * 4 + [True] * 3) == [0, 1, 2, 6, 5, 3, 4]


def test_updates_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(GraphError, match="circle"):
        early([[], [2], [1]], [False, True, True])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_always_a_valid_order(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    needs = [data.draw(st.lists(st.integers(0, k - 1), max_size=3)) if k else [] for k in range(count)]
    updates = [data.draw(st.booleans()) for _ in range(count)]
    order = early(needs, updates)
    place = {k: i for i, k in enumerate(order)}
    assert sorted(order) == list(range(count))
    assert all(place[n] < place[k] for k in range(count) for n in needs[k])

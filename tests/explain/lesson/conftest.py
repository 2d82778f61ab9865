"""The lesson once for all tests of a file, with fewer seeds, rungs and batches than the real one has."""

from __future__ import annotations

from functools import partial

import pytest

from memograd.explain.lesson import lesson as module


@pytest.fixture(scope="package")
def small():
    from memograd.explain.lesson import digit, ladder, seeds, training

    fewer = {
        "steps": partial(training.recorded, 300),
        "rungs": partial(ladder.counts, 20, 4),
        "digits": partial(digit.images, 2),
        "fates": partial(seeds.fates, 60, 300),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SECTIONS", {name: fewer.get(name, f) for name, f in module.SECTIONS.items()})
        return module.lesson("zh")

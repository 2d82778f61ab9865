"""Pretrained networks of packages that are installed, some steps."""

import pytest
from sweeps.pretrained import NETWORKS, WAYS, curve, missing


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_fine_tuning_has_the_losses_of_plain_pytorch(name):
    if hint := missing(name):
        pytest.skip(f"the weights of {name!r} come with a package: {hint}")
    plain, *ours = (curve(name, way, 10) for way in WAYS)
    assert all(loss == pytest.approx(plain, abs=1e-5) for loss in ours)
    assert min(plain[5:]) < plain[0]

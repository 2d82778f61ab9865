"""What ``import memograd`` costs besides its own modules."""

from __future__ import annotations

import subprocess
import sys

_COUNTED = """
import gc
import torch
full = []
gc.callbacks.append(lambda phase, info: full.append(info) if phase == "start" and info["generation"] == 2 else None)
import memograd
assert not full and gc.isenabled() and not gc.get_freeze_count(), (full, gc.isenabled(), gc.get_freeze_count())
"""


def test_nothing_of_pytorch_is_searched_for_garbage() -> None:
    subprocess.run([sys.executable, "-c", _COUNTED], check=True)

"""Every transform that a test calls is compared with PyTorch, the first time each of its programs is made."""

import os

os.environ.setdefault("MEMOGRAD_CHECK", "1")  # before memograd is imported; processes that tests start have it, too

"""Our backward inside loops that are not ours."""

"""The command line: ``main`` parses and delegates; one file a command."""

from memograd.cli.main import main

__all__ = ["main"]

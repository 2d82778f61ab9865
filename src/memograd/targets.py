"""What a node may call besides operators of PyTorch's and functions: an object of ours, which knows what it is."""

from __future__ import annotations

from typing import Any


class Target:
    """An object that is the target of nodes.

    Attributes:
        flows: adjoints flow to so many of its arguments, from the first on; None: to all of them.
        definition: lines that define it, above the text of a graph that calls it.
        needs: what those lines import.
    """

    flows: int | None = None
    definition: str = ""
    needs: str = ""

    @property
    def entry(self) -> Any:
        """Its line of the derivative table; None: what the table itself has of it."""
        return None

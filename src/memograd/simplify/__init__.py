"""Simplification: each pass its own file, each a function from graph to graph that keeps every value."""

from memograd.simplify.accumulate import accumulate
from memograd.simplify.algebra import algebra
from memograd.simplify.common_subexpressions import common
from memograd.simplify.dead import dead

PASSES = (algebra, common, dead, accumulate)

__all__ = ["PASSES", "accumulate", "algebra", "common", "dead"]

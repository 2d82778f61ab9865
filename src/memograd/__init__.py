"""memograd: backpropagation as the chain rule, applied recursively over a graph, with every result remembered."""

from memograd import rules as _rules  # noqa: F401  (fills the derivative table)
from memograd.capture import capture
from memograd.differentiate import differentiate
from memograd.products import count_products
from memograd.rules.registry import rule

__all__ = ["capture", "count_products", "differentiate", "rule"]

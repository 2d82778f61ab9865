"""The native backend: a small graph as one compiled C function.

A training step of a small network spends nearly all its time between operators. Here the whole graph becomes plain C,
compiled by the machine's own compiler into a library that is loaded with ctypes::

    program = native.compile(graph)
    outputs = program(*flat)                              # once, fresh outputs
    outputs, losses = program.loop(flat, feedback, 1000)  # a thousand steps without Python in between

``kernels``, ``indexing``, ``pointwise``, ``reduce``, ``rows``, ``losses`` and ``nn`` know operators, each its own;
``emit`` puts them together; ``program`` runs.
"""

from __future__ import annotations

from memograd import c_compiler
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.run.native import (  # noqa: F401  they enter their operators
    emit,
    indexing,
    kernels,
    losses,
    lstm,
    nn,
    pointwise,
    reduce,
    rows,
)
from memograd.run.native.program import Program

__all__ = ["Program", "compile", "supports"]


def supports(graph: Graph) -> str | None:
    """None if the native backend can run ``graph``, else a sentence that says why not."""
    if c_compiler.compiler() is None:
        return "the native backend needs a C compiler, and none was found"
    try:
        emit.emit(graph)
    except BackendError as error:
        return str(error)
    return None


def compile(graph: Graph) -> Program:
    """Compile ``graph``; takes well below a second for a small network, nothing if it was compiled before.

    Raises:
        BackendError: the graph holds an operator, dtype or device the backend does not know, or there is no compiler.
    """
    return Program(graph, emit.emit(graph))

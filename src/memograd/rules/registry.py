"""The derivative table: which operator has which rule.

A rule is the vector-Jacobian product of one operator, written in plain torch operations::

    @rule(aten.sin.default, formula="x̄ = ȳ · cos x")
    def sin(adjoint, y, x):
        return adjoint * x.cos()

It receives the adjoint of the result, the result, and the operator's own arguments, and returns one adjoint for each
argument, in order (a single tensor means: for the first). ``None``: no contribution. Rules do not undo broadcasting
and do not match dtypes: ``pull_back`` does that for all of them, in one place.

Three things are different and have different entries:

- ``constant(op)``: the derivative is nothing; the result does not depend smoothly on the inputs at all and autograd
  returns no gradient (``argmax``, ``zeros_like``). No adjoint flows.
- ``zero(op)``: the derivative is zero almost everywhere (``floor``, ``sign``). A gradient of zeros flows.
- ``refuse(op, why)``: there is a derivative, but not here. An adjoint that arrives is an error.

Of several results some may be constants to autograd, the statistics of a norm for one: ``constant_results(op, 1, 2)``.
A program that uses them gets no gradient through them. Rules may: the backward kernel of the norm takes the statistics
as arguments, and its derivative goes through them: ``own_results(op_backward, 3, 4)``.

``expand(op)`` states an operator by other operators instead of a rule: the chain rule is then applied inside it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch

from memograd.errors import GraphError
from memograd.targets import Target

Rule = Callable[..., Any]
Kind = Literal["rule", "expansion", "constant", "zero", "refused"]


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        target: the operator.
        kind: how it states the derivative (see above).
        function: the rule, or the expansion.
        formula: what it states, as text; ȳ is the adjoint of the result, x̄ that of an argument.
        latex: the same for typesetting.
        file: file and line of the rule.
        own: whether it is one of this library's files, named from ``rules/`` on.
    """

    target: Any
    kind: Kind
    function: Rule | None
    formula: str
    latex: str
    file: str
    own: bool = False


@dataclass(frozen=True)
class Refused:
    """Returned by a rule in place of an adjoint that exists but is not known: an error where it would be used."""

    why: str


_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep  # asked for once: a thousand entries are made at import
_TABLE: dict[Any, Entry] = {}
_CONSTANT_RESULTS: dict[Any, frozenset[int]] = {}
_OWN_RESULTS: dict[Any, frozenset[int]] = {}
_OBSERVERS: list[Callable[[Entry, Any], None]] = []


def rule(*targets: Any, formula: str = "", latex: str = "") -> Callable[[Rule], Rule]:
    """Enter a rule for each of ``targets``. A second rule for the same operator replaces the first.

    An ``autograd.Function`` class needs no rule, its own ``backward`` is traced; a rule goes before it. Of several
    results it gets the adjoints and values as tuples, and the arguments are those of ``apply``. Programs that have
    been captured already keep the backward that they were captured with.

    Args:
        targets: operators (``torch.ops.aten.sin.default``) or classes of ``autograd.Function``.
        formula, latex: what ``memograd rules`` and the explanations show; by default the function's docstring.

    Returns:
        A decorator for ``function(adjoint, y, *args, **kwargs)``, which returns the adjoints of the arguments; see
        docs/rules.md.

    Raises:
        GraphError: one of ``targets`` is nothing that a graph calls (``torch.sin``, of which it has
            ``torch.ops.aten.sin.default``), or the rule is no function.
    """

    _refuse_others(targets)

    def enter(function: Rule) -> Rule:
        if not callable(function):
            raise GraphError(f"a rule is a function of (adjoint, result, *arguments), got {type(function).__name__}")
        for target in targets:
            _enter(target, "rule", function, formula or _summary(function), latex)
        return function

    return enter


def expand(*targets: Any, formula: str = "", latex: str = "") -> Callable[[Rule], Rule]:
    """State each of ``targets`` by simpler operators: ``function(*args, **kwargs)`` computes the same value."""

    def enter(function: Rule) -> Rule:
        for target in targets:
            _enter(target, "expansion", function, formula or _summary(function), latex)
        return function

    return enter


def constant(*targets: Any, formula: str = "no adjoint: the result is a constant to autograd") -> None:
    """The results of ``targets`` carry no gradient."""
    for target in targets:
        _enter(target, "constant", None, formula, "")


def zero(*targets: Any) -> None:
    """The derivative of ``targets`` with respect to every argument is zero (almost everywhere)."""
    for target in targets:
        _enter(target, "zero", None, "x̄ = 0", r"\bar x = 0")


def refuse(*targets: Any, why: str) -> None:
    """An adjoint that reaches ``targets`` is an error."""
    for target in targets:
        _enter(target, "refused", None, why, "")


def constant_results(target: Any, *positions: int) -> None:
    """The results of ``target`` at these positions carry no gradient in a program, the others do."""
    _CONSTANT_RESULTS[target] = frozenset(positions)


def is_constant_result(target: Any, position: int) -> bool:
    """Whether autograd calls that result of ``target`` a constant."""
    return position in _CONSTANT_RESULTS.get(target, ())


def own_results(target: Any, *positions: int) -> None:
    """The arguments of ``target`` at these positions are functions of its others, whatever a program has them from."""
    _OWN_RESULTS[target] = frozenset(positions)


def own_results_of(target: Any) -> frozenset[int]:
    """The positions of such arguments."""
    return _OWN_RESULTS.get(target, frozenset())


def lookup(target: Any) -> Entry | None:
    """The entry of an operator, or None."""
    return _TABLE.get(target) or (target.entry if isinstance(target, Target) else None)


def entries() -> list[Entry]:
    """The whole table, by operator name."""
    return sorted(_TABLE.values(), key=lambda e: str(e.target))


def pull_back(entry: Entry, adjoint: Any, y: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Apply an entry: one adjoint (a tensor, a list of tensors, or None) for each of ``args``, in its shape and dtype.

    Runs on real tensors and on traced ones. Broadcasting, type promotion and real parts are undone here.
    """
    _tell(entry, (adjoint, args))
    if entry.kind == "constant":
        return [None] * len(args)
    if entry.kind == "zero":
        return [torch.zeros_like(a) if _smooth(a) else None for a in args]
    assert entry.function is not None
    out = entry.function(adjoint, y, *args, **kwargs)
    parts = list(out) if isinstance(out, tuple) else [out]
    parts += [None] * (len(args) - len(parts))
    return [_fit(part, arg) for part, arg in zip(parts, args, strict=False)]


def stated(entry: Entry, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What an expansion makes of its operator: the same value, by others."""
    _tell(entry, ())
    assert entry.function is not None
    return entry.function(*args, **kwargs)


@contextmanager
def observed(see: Callable[[Entry, Any], None]) -> Iterator[None]:
    """Inside, ``see`` is told of each entry that is applied: a rule with the adjoint and the arguments it is applied
    to, an expansion with none."""
    _OBSERVERS.append(see)
    try:
        yield
    finally:
        _OBSERVERS.remove(see)


def _tell(entry: Entry, values: Any) -> None:
    for see in _OBSERVERS:
        see(entry, values)


def _fit(adjoint: Any, argument: Any) -> Any:
    if isinstance(adjoint, Refused):
        return adjoint if _smooth(argument) else None
    if isinstance(argument, (list, tuple)):
        if adjoint is None:
            return None
        return [_fit(a, x) for a, x in zip(adjoint, argument, strict=True)]
    if adjoint is None or not isinstance(argument, torch.Tensor) or not _smooth(argument):
        return None
    return like(adjoint, argument)


def like(adjoint: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``adjoint`` in the shape and dtype of ``x``: broadcasting becomes a sum, promotion a cast."""
    if adjoint.shape != x.shape:
        adjoint = unbroadcast(adjoint, x.shape)
    if adjoint.dtype != x.dtype:
        if adjoint.is_complex() and not x.is_complex():
            adjoint = adjoint.real
        adjoint = adjoint.to(x.dtype)
    return adjoint


def unbroadcast(adjoint: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Sum over the dimensions that broadcasting added or stretched."""
    extra = adjoint.dim() - len(shape)
    stretched = [i + extra for i, n in enumerate(shape) if n == 1 and adjoint.shape[i + extra] != 1]
    if not stretched:
        return adjoint.sum(list(range(extra))) if extra else adjoint
    return adjoint.sum([*range(extra), *stretched], keepdim=True).reshape(shape)


def _smooth(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _enter(target: Any, kind: Kind, function: Rule | None, formula: str, latex: str) -> None:
    if isinstance(target, torch._ops.OpOverloadPacket):
        for overload in target.overloads():
            _enter(getattr(target, overload), kind, function, formula, latex)
        return
    code = getattr(function, "__code__", None)
    if code is not None:
        path, line = code.co_filename, code.co_firstlineno
    else:
        caller = next(f for f in _callers() if f.f_code.co_filename != __file__)
        path, line = caller.f_code.co_filename, caller.f_lineno
    _TABLE[target] = Entry(target, kind, function, formula, latex, *_place(path, line))


def _refuse_others(targets: Sequence[Any]) -> None:
    """Raises GraphError for what is no operator, no ``autograd.Function`` and nothing of ours: its rule would never be
    asked for."""
    for target in targets or (None,):
        operator = isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket, Target))
        function = inspect.isclass(target) and issubclass(target, torch.autograd.Function)
        if not (operator or function or getattr(target, "__module__", "").startswith("memograd")):
            raise GraphError(
                f"no graph calls {target!r}: name the operator, torch.ops.aten.sin.default for example, or the class "
                "of an autograd.Function (memograd rules lists operators)"
            )


def _place(path: str, line: int) -> tuple[str, bool]:
    """``file:line``, and whether that is a file of ours: then it is named from ``rules/`` on."""
    if path.startswith(_FOLDER):
        return f"{path.removeprefix(_FOLDER).replace(os.sep, '/')}:{line}", True
    return f"{os.path.basename(path)}:{line}", False


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _summary(function: Rule) -> str:
    text = inspect.getdoc(function)
    return text.splitlines()[0] if text else ""

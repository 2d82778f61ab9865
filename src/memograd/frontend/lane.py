"""The short way into a call that is like the one before it.

Which program a call runs hangs on much that hardly ever changes: the arguments' geometry, modes around it, hooks,
everything that the capture read. Once a program has run, a function is written for it that looks at all of this in a
few straight lines, and lays out the flat inputs. Where anything is not as it was it says so, and the call goes the long
way, which knows what that means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from typing import Any

import torch

from memograd._torch import others_around
from memograd.frontend.expected import Expected
from memograd.frontend.inputs import only_tensors
from memograd.frontend.program import Program
from memograd.graph.printing import load
from memograd.tracing.reuse import places
from memograd.tracing.under_way import ACTIVE

Lane = Callable[[tuple[Any, ...], dict[str, Any]], list[Any] | None]
_MOST = 200  # places that are written out; more are compared in a loop of C
_ATTRIBUTES = ("dtype", "layout", "requires_grad")  # compared by identity
_ADDRESS, _STRIDE = torch.Tensor.data_ptr, torch.Tensor.stride


def lane_of(
    program: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    hooks: Sequence[dict[int, Any]],
    unchecked: Expected | None,
) -> Lane | None:
    """The flat inputs of ``program``, which has just run on ``args`` and ``kwargs``, for arguments like these in
    surroundings like these; the function's answer is None where they are others. None where there is no short way to
    be had.

    Args:
        hooks: the tables of the hooks of all modules, and of those for every module there is.
        unchecked: where calls are compared that were not yet: says whether there are some.
    """
    flat, count, args = program.inputs.bound, len(args), [*args, *kwargs.values()]
    if flat is None or others_around() or any(hooks) or not (_is_simple(program, flat) and _are_simple(args)):
        return None
    writer = _Writer()
    names = [f"x{k}" for k in range(len(args))]
    writer.surroundings(count, list(kwargs), hooks, unchecked)
    if kwargs:
        writer.lines.append("    args = *args, *kwargs.values()")
    if names:
        writer.lines.append(f"    [{', '.join(names)}] = args")
    if len(names) == 2:
        writer.refuse(["x0 is x1"])
    elif len(names) > 2:
        writer.refuse([f"len({{*map(id, args)}}) != {len(names)}"])
    shapes = {x.shape for x in args}
    if any(t.shape in shapes for t in (*program.guards.tensors(), *program.guards.key_tensors())):
        writer.refuse([f"not {writer.name(program.guards.held)}.isdisjoint(map(id, args))"])
    for name, x in zip(names, args, strict=True):
        writer.refuse(_geometry(writer, name, x))
    writer.guards(program.guards)
    bound = {k: writer.name(t) for k, t in enumerate(flat) if t is not None}
    held = [flat[k] for k in bound]
    lie = [("addresses", _ADDRESS), ("strides", _STRIDE)]
    for what, of in lie if held else ():
        writer.scope[what] = of
        writer.refuse([f"[*map({what}, {writer.name(held)})] != {writer.name([*map(of, held)])}"])
    late = iter(names)
    writer.lines.append(f"    return [{', '.join(bound[k] if k in bound else next(late) for k in range(len(flat)))}]")
    return load("\n".join(["def lane(args, kwargs):", *writer.lines]) + "\n", "lane", writer.scope)


def _is_simple(program: Program, flat: Sequence[torch.Tensor | None]) -> bool:
    """Whether nothing about the calls of ``program`` needs a look that is not written here."""
    guards = program.guards
    if program.plain or program.decisions or program.mutations or program.wakes:
        return False
    if guards.volatile or guards.given or guards.ids:
        return False
    if program.effects.writes_arguments or program.graph.reads_by_offset:
        return False
    return all(t is None or t.layout is torch.strided for t in flat)


def _are_simple(args: Sequence[Any]) -> bool:
    """Whether they are tensors, none of them twice."""
    return only_tensors(args) and not places(args)


def _geometry(writer: _Writer, name: str, x: torch.Tensor) -> list[str]:
    """What must not be so of an argument."""
    fixed = [f"{name}.{attribute} is not {writer.name(getattr(x, attribute))}" for attribute in _ATTRIBUTES]
    return [
        f"type({name}) is not Tensor",
        *fixed,
        f"{name}.shape != {writer.name(x.shape)}",
        f"{name}.device != {writer.name(x.device)}",
        f"{name}.stride() != {writer.name(x.stride())}",
        f"{'not ' if x.storage_offset() else ''}{name}.storage_offset()",
        f"{name}.is_neg()",
        f"{name}.__dict__",
        *([f"{name}.is_conj()"] if x.is_complex() else []),
    ]


class _Writer:
    """The lines of the function, and what its names mean."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"Tensor": torch.Tensor, "others_around": others_around, "captures": ACTIVE}
        self.scope |= {"gradients": torch.is_grad_enabled, "inference": torch.is_inference_mode_enabled}
        self.lines: list[str] = []

    def name(self, value: Any) -> str:
        """A name for ``value``."""
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def refuse(self, tests: Sequence[str]) -> None:
        """Where one of ``tests`` is true the answer is None."""
        if tests:
            self.lines.append(f"    if {' or '.join(tests)}: return None")

    def surroundings(
        self, count: int, keywords: list[str], hooks: Sequence[dict[int, Any]], unchecked: Expected | None
    ) -> None:
        """There are ``count`` arguments, others with these ``keywords``, and all that counts around the call is as it
        is now."""
        keys = f"[*kwargs] != {self.name(keywords)}" if keywords else "kwargs"
        tests = [f"len(args) != {count}", keys, "not gradients()", "inference()", "others_around()"]
        tests += ["captures.plain", "captures.tracers"]
        if unchecked is not None:
            tests.append(f"{self.name(unchecked)}.unchecked")
        default = self.name(torch.get_default_dtype)
        tests += [f"{default}() is not {self.name(torch.get_default_dtype())}", f"any({self.name(list(hooks))})"]
        self.refuse(tests)

    def guards(self, guards: Any) -> None:
        """Everything that the capture read is the very same."""
        places = guards.identities()
        if len(places) > _MOST:
            self.refuse([f"not {self.name(guards.hold)}()"])
            return
        tests: list[str] = []
        for get, holder, key, value in places:
            held, at = self.name(holder), repr(key) if type(key) in (str, int) else self.name(key)
            there = f"{held}[{at}]" if get is getitem else f"{self.name(get)}({held}, {at})"
            tests.append(f"{there} is not {self.name(value)}")
        tests.append(f"not {self.name(guards.all_but_hooks_holds)}()")
        self.lines += ["    try:", f"        if {' or '.join(tests)}: return None"]
        self.lines.append("    except (KeyError, IndexError, AttributeError, ValueError): return None")

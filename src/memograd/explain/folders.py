"""Which operators lie in a folder that can be closed: calls of modules, repeated blocks, runs of a long program.

Every folder is an interval of the order of computation, so no path leaves a folder and comes back to it, and a graph of
closed folders has no circle.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Call = tuple[str, int]  # (dotted path of a module, which call of it)

_REPEATED = 3  # blocks from which on they are put into one folder
_SAME = 8  # loose operators of one kind in a row from which on they are folded
_MANY = 64  # entries of a folder above which they are put into runs
_RUNS = 24  # about as many
_PERIOD = 200  # longest pattern that is looked for among the entries of a folder


@dataclass
class Folder:
    """Some operators in a row, which a page shows as one until it is opened.

    Attributes:
        kind: ``module`` (one call), ``group`` (of calls of like modules, or of one module), ``run`` (of operators).
        path: the module's; ``label``: its part that differs from the parent's.
        call: which call of the module, if there are several.
        parent: the folder around it, None at the top.
        blocks: how many blocks alike it holds, 0 where they differ.
    """

    kind: Literal["module", "group", "run"]
    path: str
    label: str
    call: int
    parent: int | None
    blocks: int = 0


@dataclass
class _Entry:
    """An operator (``at``), or a folder to be (with ``inside``)."""

    at: int = -1
    call: Call | None = None
    kind: Literal["module", "group", "run"] = "run"
    inside: list[_Entry] = field(default_factory=list)
    likeness: Any = None  # equal for entries of the same operators in the same order


def fold(
    calls: Sequence[tuple[Call, ...]], operators: Sequence[str], root: str = ""
) -> tuple[list[Folder], list[int | None]]:
    """The folders, and for each operator the one it lies in.

    Args:
        calls: of each operator the calls of modules that it runs in, outermost first, in order of computation.
        operators: their names.
        root: the path of the module around all others.
    """
    folders: list[Folder] = []
    places: list[int | None] = [None] * len(calls)
    often = {path for path, n in {c for cs in calls for c in cs} if n}

    def place(entries: list[_Entry], parent: int | None, path: str) -> None:
        for entry in entries:
            if not entry.inside:
                places[entry.at] = parent
                continue
            own = entry.call[0] if entry.call is not None else path
            number = entry.call[1] if entry.kind == "module" and entry.call is not None and own in often else -1
            label = (
                "" if entry.kind == "run" else own.removeprefix(f"{path}.") if own != path else own.rpartition(".")[2]
            )
            folders.append(Folder(entry.kind, own, label, number, parent, _alike(entry.inside)))
            place(entry.inside, len(folders) - 1, own)

    place(_nested(range(len(calls)), calls, operators, 0, root), None, root)
    return folders, places


def _nested(
    indices: Sequence[int], calls: Sequence[tuple[Call, ...]], operators: Sequence[str], depth: int, path: str
) -> list[_Entry]:
    entries: list[_Entry] = []
    runs: list[tuple[Call | None, list[int]]] = []
    for i in indices:
        call = calls[i][depth] if len(calls[i]) > depth else None
        if call is not None and runs and runs[-1][0] == call:
            runs[-1][1].append(i)
        else:
            runs.append((call, [i]))
    for call, members in runs:
        if call is None:
            kind = operators[members[0]]
            entries.append(_Entry(members[0], likeness="[]" if kind.startswith("[") else kind))
        else:
            inside = _nested(members, calls, operators, depth + 1, call[0])
            if len(inside) == 1:  # a folder around one thing shows nothing
                entries += inside
                continue
            entries.append(_Entry(call=call, kind="module", inside=inside, likeness=_likeness(inside)))
    return _in_runs(_grouped(_same(entries), path))


def _same(entries: list[_Entry]) -> list[_Entry]:
    """Loose operators of one kind in a row (the slices of a sequence) as one run."""
    folded: list[_Entry] = []
    for (loose, _), row in itertools.groupby(entries, lambda e: (not e.inside, e.likeness)):
        members = list(row)
        if loose and _SAME <= len(members) < len(entries):
            folded.append(_Entry(kind="run", inside=members, likeness=_likeness(members)))
        else:
            folded += members
    return folded


def _likeness(entries: list[_Entry]) -> int:
    return hash(tuple(e.likeness for e in entries))


def _grouped(entries: list[_Entry], path: str) -> list[_Entry]:
    """Calls of ``blocks.0`` to ``blocks.11``, or of one module again and again, with what stands between them, as one
    folder ``blocks``; not where calls of other modules stand between them."""
    keys = [_container(e.call[0]) if e.call is not None else None for e in entries]
    for key in dict.fromkeys(k for k in keys if k is not None and k != path):
        at = [i for i, k in enumerate(keys) if k == key]
        first, last = at[0], at[-1] + 1
        between = [k for k in keys[first:last] if k != key]
        if len(at) >= _REPEATED and len(at) < len(entries) and not any(between) and len(between) <= 4 * len(at):
            group = _Entry(call=(key, 0), kind="group", inside=_in_runs(entries[first:last]))
            group.likeness = _likeness(group.inside)
            entries[first:last], keys[first:last] = [group], [None]
    return entries


def _container(path: str) -> str:
    """``encoder.layer`` of ``encoder.layer.3``; a module that is no member of a list is its own."""
    return re.sub(r"\.?\d+$", "", path)


def _in_runs(entries: list[_Entry]) -> list[_Entry]:
    """Long lists of entries in runs: of the length of their pattern, if they repeat one."""
    while len(entries) > _MANY:
        length = _period(entries) or -(-len(entries) // _RUNS)
        parts = [entries[i : i + length] for i in range(0, len(entries), length)]
        entries = [p[0] if len(p) == 1 else _Entry(kind="run", inside=p, likeness=_likeness(p)) for p in parts]
    return entries


def _period(entries: list[_Entry]) -> int | None:
    """After how many entries the same ones come again, nearly everywhere; None where they do not."""
    likeness = [e.likeness for e in entries]
    for period in range(2, min(_PERIOD, len(entries) // _REPEATED)):
        same = sum(a == b for a, b in zip(likeness, likeness[period:], strict=False))
        if same >= 0.95 * (len(entries) - period):
            return period
    return None


def _alike(entries: list[_Entry]) -> int:
    """How many blocks a folder repeats: all its folders, if these are alike."""
    blocks = [e for e in entries if e.inside]
    return len(blocks) if len(blocks) >= _REPEATED - 1 and len({b.likeness for b in blocks}) == 1 else 0


def common(places: Sequence[int | None], above: Sequence[int | None]) -> int | None:
    """The innermost folder that holds all ``places``; ``above`` says of each folder which one it lies in."""
    ways = []
    for place in places:
        way: list[int] = []
        while place is not None:
            way.append(place)
            place = above[place]
        ways.append(way[::-1])
    innermost = None
    for level in zip(*ways, strict=False):
        if len(set(level)) > 1:
            break
        innermost = level[0]
    return innermost

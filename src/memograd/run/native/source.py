"""Statements as the text of one C function, and around it the loop over steps.

Every temporary gets a place in one arena, shared by those that are never alive at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memograd.run.native.values import C_TYPES, Buffer

ALIGN = 64  # bytes: a line of the cache, and the widest vector


@dataclass(frozen=True)
class Statement:
    lines: list[str]
    reads: frozenset[Buffer]
    writes: frozenset[Buffer]


@dataclass(frozen=True)
class Source:
    """C text that defines ``step(in, out, arena)`` and ``loop(...)``, and how much arena it needs."""

    text: str
    arena_bytes: int
    work: int  # roughly how many elements one step touches
    indexed: tuple[str, ...] = ()  # what may be stopped by an index out of range, by its number, from 1


def source_of(
    statements: Sequence[Statement], flag: str, helpers: Sequence[str], work: int, indexed: tuple[str, ...]
) -> Source:
    """The C text of ``statements``, one after the other; ``flag`` is the C type of what says whether a step is
    finite."""
    offsets, arena = _place(statements)
    return Source(_text(statements, offsets, flag, helpers), arena, work, indexed)


def _place(statements: Sequence[Statement]) -> tuple[dict[Buffer, int], int]:
    """Offsets of the temporaries in the arena: first fit, over the time between first write and last use."""
    last: dict[Buffer, int] = {}
    for now, statement in enumerate(statements):
        for buffer in statement.reads | statement.writes:
            last[buffer] = now
    offsets: dict[Buffer, int] = {}
    alive: list[Buffer] = []
    end = 0
    for now, statement in enumerate(statements):
        alive = [b for b in alive if last[b] >= now]
        for buffer in sorted(statement.writes, key=lambda b: b.number):
            if buffer.kind == "tmp" and buffer not in offsets:
                place = 0
                for other in sorted(alive, key=offsets.__getitem__):
                    if offsets[other] - place >= _padded(buffer):
                        break
                    place = max(place, offsets[other] + _padded(other))
                offsets[buffer] = place
                alive.append(buffer)
                end = max(end, place + _padded(buffer))
    return offsets, end


def _padded(buffer: Buffer) -> int:
    return max(1, -(-buffer.bytes // ALIGN)) * ALIGN


# One argument: ctypes takes longer to pass twelve than a small network takes to step.
LOOP = """
struct memograd_plan {
    void **in, **out;
    char *arena;
    long first, count, every;  /* steps first .. first + count - 1; a loss is kept from every so many */
    long fed;  /* this many outputs: from[f] goes to input to[f], bytes[f] long */
    const long *from, *to, *bytes;
    char *losses;
    long width;  /* bytes of one loss; 0: keep none */
    long flag;  /* the output that is finite where the step may write; -1: none */
    long out_of_range;  /* the number of what was stopped by an index; 0: nothing */
};

/* how many steps it has done */
long memograd_loop(struct memograd_plan *p) {
    for (long s = p->first; s < p->first + p->count; ++s) {
        if ((p->out_of_range = memograd_step(p->in, p->out, p->arena))) return s - p->first;
        if (p->flag >= 0 && !__builtin_isfinite(*(const FLAG *)p->out[p->flag])) return s - p->first;
        if (p->width && s % p->every == 0) __builtin_memcpy(p->losses + s / p->every * p->width, p->out[0], p->width);
        for (long f = 0; f < p->fed; ++f) __builtin_memcpy(p->in[p->to[f]], p->out[p->from[f]], p->bytes[f]);
    }
    return p->count;
}
"""


def _text(statements: Sequence[Statement], offsets: dict[Buffer, int], flag: str, helpers: Sequence[str]) -> str:
    lines = [*helpers, "long memograd_step(void **in, void **out, char *arena) {", "long out_of_range = 0;"]
    for statement in statements:
        lines.append("{")
        for buffer in sorted(statement.reads | statement.writes, key=lambda b: b.name):
            where = f"(arena + {offsets[buffer]}L)" if buffer.kind == "tmp" else f"{buffer.kind}[{buffer.number}]"
            const = "" if buffer in statement.writes else "const "
            kind = f"{const}{C_TYPES[buffer.dtype]}"
            # only what is written is promised not to alias: two inputs may be the same tensor
            lines.append(f"{kind} *{'restrict ' if not const else ''}{buffer.name} = ({kind} *){where};")
        lines += [*statement.lines, "}"]
    return "\n".join([*lines, "return out_of_range;", "}", LOOP.replace("FLAG", flag)])

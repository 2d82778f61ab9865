"""Where the text of a tensor goes: whether somebody only reads it, or the program goes by it.

While a program is captured there may be no values to show. ``print(x)`` and ``log.info(f"{x}")`` get a text that says
so; ``table[str(x)]``, ``if "nan" in f"{x}"`` look at the values, as ``x.tolist()`` does. Which of the two it is, the
statement in the program says that asks for the text: one that throws away what it computes only shows it.
"""

from __future__ import annotations

import dis
import functools
import sys
import types

from memograd.tracing.names import is_library, is_user_code

_SHOWING = frozenset({"print", "warn"})
_KEEPING = frozenset(
    {
        *("append", "appendleft", "add", "extend", "insert", "update", "setdefault", "pop", "discard", "remove", "put"),
        *("write", "writelines", "setattr", "__setitem__", "__setattr__", "exec", "eval", "seed", "manual_seed"),
    }
)
_TO_A_TERMINAL = frozenset({"stdout", "stderr", "tqdm"})
_ENDS = ("STORE_", "DELETE_", "POP_JUMP", "POP_TOP", "RETURN", "YIELD", "RAISE", "FOR_ITER", "BEFORE_WITH")
_ENDS += ("LIST_APPEND", "SET_ADD", "MAP_ADD", "JUMP_IF", "JUMP_BACK", "JUMP_ABSOLUTE", "SEND", "SETUP_WITH")
_OF_TEXTS = ("FORMAT_", "CONVERT_VALUE", "BUILD_STRING", "LOAD_CONST", "LOAD_FAST", "BINARY_ADD")
_OF_TEXTS += ("JUMP_FORWARD", "PRECALL")
_TEXTS = frozenset({"__repr__", "__str__", "__format__"})


def only_shown() -> bool:
    """Whether the text that the program asks for right now is thrown away once it was shown."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if is_user_code(code) and not is_library(code.co_filename) and code.co_name not in _TEXTS:
            shows = _shows(code, frame.f_lasti)
            if shows is not None:
                return shows
        frame = frame.f_back
    return True


@functools.lru_cache(10_000)
def _shows(code: types.CodeType, at: int) -> bool | None:
    """None where the text is returned to whoever called this."""
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    place = max((k for k, i in enumerate(instructions) if i.offset <= at), default=0)
    end = _end(instructions, place)
    said = _names(code, instructions, place, end)
    if said & _SHOWING:
        return not ("file" in said and said.isdisjoint(_TO_A_TERMINAL))
    last = instructions[end].opname
    if last == "RETURN_VALUE" and all(i.opname.startswith(_OF_TEXTS) for i in instructions[place + 1 : end]):
        return None
    if not last.startswith(("POP_TOP", "RAISE")):
        return False
    return said.isdisjoint(_KEEPING) or not said.isdisjoint(_TO_A_TERMINAL)


def _end(instructions: list[dis.Instruction], place: int) -> int:
    """Where the statement ends in which the instruction at ``place`` is."""
    while place + 1 < len(instructions):
        name = instructions[place].opname
        if name == "JUMP_FORWARD":
            place = next(k for k, i in enumerate(instructions) if i.offset >= instructions[place].argval)
        elif name.startswith(_ENDS):
            break
        else:
            place += 1
    return place


def _names(code: types.CodeType, instructions: list[dis.Instruction], place: int, end: int) -> frozenset[str]:
    """What is named in the statement."""
    start = place
    while start > 0 and not instructions[start - 1].opname.startswith(("STORE_", "POP_TOP", "RETURN", "RAISE")):
        start -= 1
    statement = instructions[start : end + 1]
    said = [code.co_consts[i.arg or 0] if i.opname == "KW_NAMES" else i.argval for i in statement]
    keywords = [name for x in said if isinstance(x, tuple) for name in x if isinstance(name, str)]
    return frozenset([*keywords, *(x for x in said if isinstance(x, str))])

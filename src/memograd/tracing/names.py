"""Which globals a function's code reads and writes, and whose code it is."""

from __future__ import annotations

import dis
import functools
import importlib.util
import os
import sys
import sysconfig
import types
from collections.abc import Iterator

_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_SITE = os.sep + "site-packages" + os.sep
_MACHINERY = frozenset({"torch", "memograd", "numpy", "builtins"})

Chain = tuple[str, ...]  # ``config.model.k`` as its names


@functools.cache
def globals_of(code: types.CodeType) -> tuple[tuple[Chain, ...], tuple[str, ...]]:
    """(read, written): chains of attributes that begin at a global, and names of globals assigned to; also in the
    functions defined inside."""
    read: dict[Chain, None] = {}
    written: dict[str, None] = {}
    for name, tail, store in _accesses(code):
        if store:
            written[name] = None
        else:
            read[(name, *tail)] = None
    return tuple(read), tuple(written)


def _accesses(code: types.CodeType) -> Iterator[tuple[str, Chain, bool]]:
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield instruction.argval, (), True
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            tail = []
            for following in instructions[i + 1 :]:
                if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                tail.append(following.argval)
            yield instruction.argval, tuple(tail), False
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _accesses(constant)


@functools.cache
def attributes_in(code: types.CodeType) -> frozenset[str]:
    """The names that a function's code has, of attributes and globals; also those of the functions defined inside."""
    inside = [attributes_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inside)


@functools.cache
def imported_by(code: types.CodeType, package: str) -> tuple[str, ...]:
    """Full names of the modules that a function's code imports, and of the packages around them."""
    names: dict[str, None] = {}
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            level = instructions[i - 2].argval
            name = "." * level + instruction.argval if isinstance(level, int) else instruction.argval
            try:
                name = importlib.util.resolve_name(name, package)
            except ImportError:  # a relative one, beyond the package
                continue
            parts = name.split(".")
            names.update(dict.fromkeys(".".join(parts[: k + 1]) for k in range(len(parts))))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(imported_by(constant, package)))
    return tuple(names)


def is_standard(module: str) -> bool:
    """True for modules of the standard library."""
    return module.partition(".")[0] in sys.stdlib_module_names


@functools.cache
def is_machinery(module: str) -> bool:
    """True for modules that no program configures by assigning to their names: ours, PyTorch, the standard library."""
    top = module.partition(".")[0]
    return top in _MACHINERY or top in sys.stdlib_module_names


@functools.cache
def is_library(file: str) -> bool:
    """True for files that users install rather than write."""
    return _SITE in file


def is_library_module(name: str) -> bool:
    """The same for modules by name."""
    file = getattr(sys.modules.get(name), "__dict__", {}).get("__file__")  # no ``__getattr__`` asked
    return isinstance(file, str) and is_library(file)


@functools.cache
def is_user_code(code: types.CodeType) -> bool:
    """False for functions of PyTorch, of ours and of the standard library."""
    file = code.co_filename
    return not (file.startswith("<frozen") or is_standard_file(file) or _of_machinery(file))


def is_standard_file(file: str) -> bool:
    """True for files of the standard library."""
    return file.startswith(_STDLIB) and _SITE not in file


@functools.cache
def _of_machinery(file: str) -> bool:
    files = [getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "memograd", "numpy")]
    return any(file.startswith(os.path.dirname(f) + os.sep) for f in files if f)

"""The arrows of docs/design.md, held by reading every import.

A file may import what its room is allowed to, wherever in the file the import stands (also inside functions). A room
that does not exist yet is skipped; a file that belongs to no room fails, so that nobody forgets to place it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

SRC = Path(__file__).parent.parent / "src" / "memograd"

# What may be used from anywhere; what each is for, docs/design.md says.
GROUND = {
    "errors",
    "ops",
    "looks",
    "finite",
    "draws",
    "autocast",
    "clock",
    "collector",
    "c_compiler",
    "cautions",
    "progress",
    "findings",
    "lstm_layer",
    "as_written",
    "largest_number",
    "targets",
    "_torch",
}
FOUNDATIONS = GROUND | {"graph", "rules.registry"}
STAGES = {"tracing", "adjoint", "simplify", "lower", "fuse", "memory", "run"}
PIPELINE = FOUNDATIONS | STAGES | {"pipeline"}

# room: what its files may import, besides files of the same room. A room is a folder or a single file; a file of a
# folder may have a row of its own, which then holds for it alone.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_torch": set(),
    "as_written": {"_torch"},
    "looks": set(),
    "finite": {"largest_number"},
    "largest_number": {"errors", "c_compiler"},
    "ops": {"looks", "finite"},
    "draws": {"_torch", "cautions"},
    "autocast": set(),
    "clock": set(),
    "collector": set(),
    "c_compiler": {"errors", "cautions"},
    "cautions": set(),
    "progress": set(),
    "findings": set(),
    "lstm_layer": {"_torch"},
    "graph": GROUND,
    "targets": set(),
    "rules.registry": {"errors", "targets"},
    "rules": GROUND | {"rules.registry"},
    "tracing": FOUNDATIONS,
    "adjoint": FOUNDATIONS | {"tracing"},
    "simplify": FOUNDATIONS | {"tracing"},
    "lower": FOUNDATIONS | {"tracing"},
    "fuse": FOUNDATIONS,
    "memory": GROUND | {"graph"},
    "run": FOUNDATIONS | {"memory"},
    "pipeline": PIPELINE,
    "witness": PIPELINE,
    "transforms": PIPELINE | {"witness"},
    "frontend": PIPELINE | {"transforms", "witness", "doctor.nan", "doctor.report", "doctor.probes"},
    "train": PIPELINE | {"witness", "doctor.nan", "doctor.report"},
    "verify": PIPELINE | {"transforms", "witness"},
    "doctor.curves": GROUND,
    "doctor.page": GROUND | {"doctor.curves"},
    "doctor.report": GROUND | {"doctor.curves", "doctor.page"},
    "doctor.probes": PIPELINE,
    "doctor.nan": PIPELINE | {"doctor.report", "doctor.probes"},
    "inspection": PIPELINE | {"train", "verify", "witness"},
    "doctor": PIPELINE
    | {
        "doctor.report",
        "doctor.probes",
        "doctor.nan",
        "explain",
        "inspection",
        "train",
        "transforms",
        "verify",
        "witness",
    },
    "testing": PIPELINE | {"transforms", "verify", "witness"},
    "recipes": GROUND | {"train", "memory"},
    "explain": PIPELINE | {"rules", "recipes", "transforms", "train"},
    "cli": GROUND | {"train", "recipes", "explain", "verify", "memory", "inspection", "doctor", "doctor.report"},
    "__main__": {"cli"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    """``rules.conv`` lives in the room ``rules``, ``rules.registry`` in one of its own."""
    parts = module.split(".")
    inner = [".".join(parts[:n]) for n in range(len(parts), 1, -1)]
    return next((name for name in inner if name in ALLOWED), parts[0])


@cache  # seven tests read every file
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imported(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, ``from a import b`` as ``a.b``."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import; write memograd.… in full"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def ours(name: str) -> str | None:
    """The module of ours that an imported name belongs to; None for other packages."""
    parts = name.split(".")
    if parts[0] != "memograd":
        return None
    while len(parts) > 1:
        path = SRC.joinpath(*parts[1:])
        if path.with_suffix(".py").exists() or path.is_dir():
            return ".".join(parts[1:])
        parts.pop()
    return "__init__"


FILES = [p for p in sorted(SRC.rglob("*.py")) if p != SRC / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=[module_name(p) for p in FILES])
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(module_name(path))
    assert room in ALLOWED, f"{module_name(path)} belongs to no room; give it one in docs/design.md and here"
    for line, name in imported(path):
        module = ours(name)
        if module is None or room_of(module) == room:
            continue
        assert room_of(module) in ALLOWED[room], f"{path.name}:{line}: {room} must not import memograd.{module}"


def test_stages_never_import_each_other() -> None:
    """The table above is the rule; this holds the table itself. The tracer is how every stage writes nodes, and a
    backend runs what was lowered and planned."""
    shared = {"tracing": set(), "run": {"memory"}}
    for stage in STAGES:
        assert (ALLOWED[stage] & STAGES) <= shared.get(stage, {"tracing"}), stage


def test_rooms_form_no_circle() -> None:
    for room in ALLOWED:
        assert room not in reachable(room, {r: ALLOWED[r] - {r} for r in ALLOWED}), f"{room} is above itself"


def test_files_form_no_circle() -> None:
    arrows = {module_name(p): {ours(n) for _, n in imported_when_run(p)} for p in FILES}
    for module in arrows:
        assert module not in reachable(module, arrows), f"{module} imports itself by a way round"


def reachable(start: str, arrows: dict[str, set]) -> set[str]:
    """What can be reached from ``start`` by one arrow or more."""
    found: set[str] = set()
    waiting = list(arrows.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += arrows.get(name, ())
    return found


def imported_when_run(path: Path) -> list[tuple[int, str]]:
    """The imports of a file, also those inside functions, that do not stand under TYPE_CHECKING."""
    blocks = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.If)]
    for_types = {n.lineno for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for n in block.body}
    return [(line, name) for line, name in imported(path) if line not in for_types]


def test_the_ground_is_what_several_rooms_stand_on() -> None:
    """What only one room uses lies in that room."""
    users: dict[str, set[str]] = {name: set() for name in GROUND}
    for path in FILES:
        own = module_name(path).split(".")[0]
        for _, name in imported(path):
            if (top := (ours(name) or "").split(".")[0]) in users and top != own:
                users[top].add(own)
    assert not (alone := {name for name, rooms in users.items() if len(rooms) < 2}), f"{alone} belong into a room"


def test_differentiation_knows_the_registry_and_no_rule() -> None:
    for path in sorted((SRC / "adjoint").glob("*.py")):
        rules = {m for _, name in imported(path) if (m := ours(name)) and m.split(".")[0] == "rules"}
        assert rules <= {"rules.registry"}, path.name


def test_no_rule_file_imports_graphs() -> None:
    """A rule is plain torch operations: it runs on real tensors as well as on traced ones."""
    for path in sorted((SRC / "rules").rglob("*.py")):
        used = {m.split(".")[0] for _, name in imported(path) if (m := ours(name))} & (STAGES | {"graph"})
        assert not used, f"{path.name} imports {used}"


# -- PyTorch's internals -----------------------------------------------------------------------------------------

# Names with an underscore that are public in fact: the type of torch.ops.aten.add.Tensor has no other name, torch.ops
# holds operators (aten._softmax), the _foreach functions are in PyTorch's manual, and what torch.compile raises can be
# caught by no other name (importing it ahead, in _torch/, would cost every import of memograd a second).
TOLERATED = (
    "torch._ops.OpOverload",
    "torch._ops.OpOverloadPacket",
    "torch.ops.",
    "torch._foreach_",
    "torch._dynamo.exc",
    "torch.testing._internal.common_methods_invocations",  # op_db, PyTorch's own test samples; needed by tests only
    "torch.testing._internal.common_modules",  # module_db, likewise
)


def dotted(node: ast.AST) -> str | None:
    """``torch._C._something`` as text, None for anything but a chain of names."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def private_torch(path: Path) -> list[tuple[int, str]]:
    names = [(n.lineno, text) for n in nodes(path) if isinstance(n, ast.Attribute) and (text := dotted(n))]
    names += imported(path)
    return [
        (line, name)
        for line, name in names
        if name.startswith("torch.")
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
        and not name.startswith(TOLERATED)
        and name not in ("torch._ops", "torch._dynamo")  # the beginnings of tolerated chains
    ]


@pytest.mark.parametrize("path", FILES, ids=[module_name(p) for p in FILES])
def test_only_one_room_touches_the_internals_of_torch(path: Path) -> None:
    if room_of(module_name(path)) == "_torch":
        return
    found = private_torch(path)
    assert not found, f"{path.name} uses {found}: private to PyTorch; go through memograd._torch"


# Public in fact: how often a tensor was written to (PyTorch's manual explains it), the chain of ``torch._ops``.
TOLERATED_ATTRIBUTES = {"_version", "_ops", "_foreach_copy_"}


def torchs_names() -> set[str]:
    """Private attributes of the kinds of objects that PyTorch hands out."""
    parameter = torch.nn.Parameter(torch.ones(1))
    objects = [
        parameter,
        parameter.exp().grad_fn,
        parameter.untyped_storage(),
        torch.Generator(),
        torch.nn.Linear(1, 1),
        torch.optim.SGD([parameter]),
        torch.optim.lr_scheduler.LRScheduler,
        torch.autograd.Function,
        torch.ops.aten.add,
        torch.ops.aten.add.Tensor,
        torch.fx.Graph(),
    ]
    names = {name for o in objects for name in dir(o)}
    names |= {"_opt_called", "_wrapped_by_lr_sched"}  # put on optimizers by schedulers
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def own_names() -> set[str]:
    """What our files define: functions, classes, attributes, variables."""
    names: set[str] = set()
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) == "self":
                names.add(node.attr)
    return names


def test_no_private_attribute_of_objects_of_torch() -> None:
    """``optimizer._opt_called`` is as private as ``torch._C``: what is named so and not ours goes through _torch."""
    private = torchs_names() - own_names() - TOLERATED_ATTRIBUTES
    assert {"_schema", "_backward_hooks", "_backward_cls", "_optimizer_step_pre_hooks"} <= private
    for path in FILES:
        if room_of(module_name(path)) == "_torch":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and node.attr in private:
                operator = "aten" in (dotted(node) or "").split(".")
                assert operator, f"{path.name}:{node.lineno}: {ast.unparse(node)} is private to PyTorch"


def test_importing_loads_no_compiler_and_no_solver() -> None:
    """``import memograd`` takes some tenths of a second more than ``import torch``: Dynamo and sympy (two seconds) wait
    for the first capture, the solvers and the compiled search for the first plan, tables for who reads them; and where
    there is nothing but PyTorch and NumPy, all works but what shows a bar or writes a checkpoint."""
    heavy = ["torch._dynamo", "torch._inductor", "sympy", "torch.fx.experimental.symbolic_shapes", "numba", "llvmlite"]
    heavy += ["scipy", "ortools", "networkx", "matplotlib", "yaml", "jax", "torchvision", "pandas"]
    heavy += ["tqdm", "safetensors"]
    code = "import sys, torch; before = set(sys.modules); import memograd"
    code += f"; print(sorted((set(sys.modules) - before) & set({heavy})))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"

"""What modules hold, and modules compiled by TorchScript.

- ``tables_of``: what a module holds is public one by one (``named_buffers``), where it holds it is not.
- ``scripted_state``: what a module compiled by ``torch.jit.script`` holds is in C++; nothing public lists its
  attributes.
- ``ScriptMethod``, ``optimized_execution``, ``forget_plans``: TorchScript differentiates some operators by itself. What
  would keep it from that (not documented) comes too late once it has decided how to run a function, and keeps that.
- ``with_reads_seen``: which operators such a function calls is in its graph alone, and a function
  with another graph is made by no public name.
- ``parametrized_values``: what ``parametrize.cached()`` keeps stands in a private global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.jit._fuser import optimized_execution  # noqa: F401
from torch.nn.utils import parametrize


def tables_of(module: nn.Module) -> list[dict[str, Any]]:
    """The dicts in which a module keeps its attributes, parameters, buffers and submodules."""
    own = vars(module)
    return [own, *(own[table] for table in ("_parameters", "_buffers", "_modules") if table in own)]


def scripted_state(module: torch.jit.ScriptModule) -> dict[tuple[Any, str], Any]:
    """What it and the modules in it have as attributes: numbers and texts, and tensors (always as the same objects). By
    the object of C++ that holds it and the name."""
    state: dict[tuple[Any, str], Any] = {}
    for part in module.modules():
        own = vars(vars(part).get("_actual_script_module", part))  # that of a traced one holds another
        if "_concrete_type" in own:  # else it is being made
            names = own["_concrete_type"].get_attributes()
            state |= {(own["_c"], name): own["_c"].getattr(name) for name in names}
    return state


def parametrized_values() -> dict[Any, Any] | None:
    """The tensors that are kept inside ``parametrize.cached()``, by module and name; None outside."""
    return parametrize._cache if parametrize._cache_enabled else None


ScriptMethod: Any = torch._C.ScriptMethod


def forget_plans(function: Any) -> None:
    """Let TorchScript decide anew how to run a function or method."""
    function._debug_flush_compilation_cache()


def with_reads_seen(function: Any, reads: Callable[[Any], list[Any]], see: str) -> Any:
    """A function of TorchScript's like ``function`` which hands the values that ``reads`` names of a node of its graph
    to the operator ``see`` first, and goes on with what that returns; None where it names none."""
    graph = function.inlined_graph
    read = [(node, value) for node in _nodes(graph) for value in reads(node)]
    if not read:
        return None
    for node, value in read:
        seen = graph.create(see, [value], 1)
        seen.insertBefore(node)
        seen.output().setType(value.type())
        node.replaceInputWith(value, seen.output())
    return torch._C._create_function_from_graph(function.name, graph)


def positional(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments of a function or method of TorchScript's for its graph, which knows neither names nor defaults."""
    own = [function.owner] if isinstance(function, ScriptMethod) else []
    rest = function.schema.arguments[len(own) + len(args) :]
    return [*own, *args, *(kwargs.get(a.name, a.default_value) for a in rest)]


def _nodes(block: Any) -> Iterator[Any]:
    """All nodes of a graph, those inside of its loops and branches, too."""
    for node in list(block.nodes()):
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)

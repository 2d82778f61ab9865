"""``torch.compile(model, backend="memograd")``: Dynamo cuts a program into graphs, each runs as a wrapped model does.

Dynamo reads Python's bytecode: where control flow depends on values it ends a graph, goes on in Python and begins
another one, and its guards say when a graph may be used again. What it hands over is a module of PyTorch's functions
that takes parameters as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from memograd._torch import with_data_set
from memograd.errors import BackendError
from memograd.frontend.forward import Wrapped
from memograd.frontend.settings import Settings
from memograd.frontend.wrap import check_options

_OPTIONS = ("memory_budget", "backend", "check")


def memograd_backend(
    module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None, **others: Any
) -> Callable[..., Any]:
    """What Dynamo calls with each of its graphs.

    Args:
        module: the graph, a ``torch.fx.GraphModule``.
        example_inputs: without data; what the graph is captured on are those of its first call.
        options: ``memory_budget``, ``backend`` and ``check``, as ``wrap`` has them.

    Returns:
        A function of the graph's arguments, which returns a list.

    Raises:
        BackendError: an option that there is not; a ``mode``.
    """
    own = dict(options or {})
    unknown = [*(name for name in own if name not in _OPTIONS), *others]
    if unknown:
        raise BackendError(
            f"the memograd backend of torch.compile has no option {unknown[0]!r}; it has options={{...}} with "
            f"{', '.join(_OPTIONS)}"
        )
    check = own.pop("check", "first")
    settings = Settings(**own)
    check_options(settings.backend, check)
    wrapped = Wrapped(with_data_set(module), None, settings, check)

    def call(*args: Any) -> list[Any]:
        return list(wrapped(*args))

    return call

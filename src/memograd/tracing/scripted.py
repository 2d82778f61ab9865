"""What ``torch.jit`` has compiled, followed operator by operator.

TorchScript runs its operators through the dispatcher like everybody else, until it has seen a function a few times:
then it differentiates parts of it by itself, and runs these with autograd off, so that no gradient would be seen to go
through them. While a program is captured each such call starts anew, with TorchScript's optimizations off.

What TorchScript itself, or an operator that it calls past Python, reads out of a tensor (``n.tolist()``,
``torch.tensor_split(x, n)``) stands in its graph alone: such a function is called by a twin that says so.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import (
    DispatchMode,
    ScriptMethod,
    forget_plans,
    optimized_execution,
    positional,
    with_reads_seen,
)
from memograd.errors import CaptureError
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.provenance import caller

_READ: dict[str, int] = {  # which operand is read, by operator
    "aten::tensor_split.tensor_indices_or_sections": 1,
    "aten::_pad_packed_sequence": 1,
    **{f"aten::{layer}.data": 1 for layer in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
_READS_ALL = frozenset({"prim::tolist", "prim::Print", "aten::format", "aten::percentFormat", "aten::str"})
_REFUSED = {
    **dict.fromkeys(("aten::manual_seed", "aten::seed"), "seeds a random generator inside of TorchScript"),
    **dict.fromkeys(("prim::fork", "prim::awaitable"), "runs parts of itself in other threads (torch.jit.fork)"),
}
_CALL = torch.jit.ScriptFunction.__call__


def _reads(node: Any) -> list[Any]:
    """The values of TorchScript's that this node of its graph reads numbers out of, unseen.

    Raises:
        CaptureError: nobody could say what it does.
    """
    if (does := _REFUSED.get(node.kind())) is not None:
        raise _refusal(does)
    if node.kind() in _READS_ALL:
        values = [v for v in dict.fromkeys(node.inputs()) if "Tensor" in v.type().annotation_str]
        if not all(v.type().isSubtypeOf(torch.TensorType.get()) for v in values):
            raise _refusal("writes out a list of tensors as text")
        return values
    at = _READ.get(node.schema().partition("(")[0])
    return [] if at is None else [node.inputsAt(at)]


def _refusal(does: str) -> CaptureError:
    source, line = caller()
    return CaptureError(
        f"{source} ({line}) calls a function compiled by torch.jit which {does}, and nobody sees that; call the "
        "function that it was made of"
    )


class _Raised(DispatchMode):
    """Remembers what an operator raised: TorchScript makes an empty ``RuntimeError`` of it."""

    error: Exception | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **kwargs or {})
        except Exception as error:
            self.error = error
            raise


def _standing_in(owner: Any) -> Interposed:
    call = owner.__call__

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = current()
        if tracer is None or not tracer.stops:
            return call(self, *args, **kwargs)
        forget_plans(self)
        raised = _Raised()
        try:
            with optimized_execution(False), raised:
                seen = with_reads_seen(self, _reads, "memograd::read")
                return call(self, *args, **kwargs) if seen is None else _CALL(seen, *positional(self, args, kwargs))
        except RuntimeError as error:
            if raised.error is None:
                raise
            raise raised.error from error

    return Interposed(owner, "__call__", run)


FUNCTION, METHOD = _standing_in(torch.jit.ScriptFunction), _standing_in(ScriptMethod)

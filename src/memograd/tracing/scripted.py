"""What ``torch.jit`` has compiled, followed operator by operator.

TorchScript runs its operators through the dispatcher like everybody else, until it has seen a function a few times:
then it differentiates parts of it by itself, and runs these with autograd off, so that no gradient would be seen to go
through them. While a program is captured each such call starts anew, with TorchScript's optimizations off.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import DispatchMode, ScriptMethod, forget_plans, optimized_execution
from memograd.tracing.interposed import Interposed, current


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
                return call(self, *args, **kwargs)
        except RuntimeError as error:
            if raised.error is None:
                raise
            raise raised.error from error

    return Interposed(owner, "__call__", run)


FUNCTION, METHOD = _standing_in(torch.jit.ScriptFunction), _standing_in(ScriptMethod)

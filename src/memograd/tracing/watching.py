"""Who watches a program while it is captured: what it does that is no operator, or not as the dispatcher shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from memograd._torch import FAKE, quiet
from memograd.tracing.addresses import STORAGE_ADDRESS
from memograd.tracing.chance import seeds
from memograd.tracing.cudnn import plain_recurrence
from memograd.tracing.histories import Histories, histories
from memograd.tracing.interposed import together
from memograd.tracing.silent_reads import PICKLES, TO_DLPACK
from memograd.tracing.substitute import Substitute
from memograd.tracing.tracer import Tracer
from memograd.tracing.unseen import Unseen
from memograd.tracing.warned import WATCHED


def watching(
    tracer: Tracer, root: Any, grad_asked: Callable[[torch.Tensor], None], gradients: Callable[..., Any]
) -> Iterator[AbstractContextManager[Any]]:
    """Contexts for a run of ``root`` under ``tracer``; what comes last sees its calls first.

    Args:
        grad_asked: is told of tensors whose ``.grad`` is read.
        gradients: is told of those whose ``.grad`` is set.
    """
    yield nothing_compiled()
    yield seeds(tracer)
    yield torch.set_grad_enabled(torch.is_grad_enabled())  # put back if the program fails or forgets to
    yield quiet()
    if not tracer.concrete:
        yield FAKE
    yield tracer
    yield histories()
    yield Unseen(tracer)
    yield STORAGE_ADDRESS()
    yield PICKLES()
    yield TO_DLPACK()
    yield together(*WATCHED)
    yield Histories(tracer)
    yield tracer.modules.follow(root)
    yield plain_recurrence()
    yield Substitute(tracer, grad_asked=grad_asked, gradients=gradients)


def nothing_compiled() -> AbstractContextManager[Any]:
    """Inside, what ``torch.compile`` has made of a part of the program runs as the part itself."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")

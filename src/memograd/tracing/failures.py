"""What a program raises while it is captured, as errors of ours that say where."""

from __future__ import annotations

from memograd._torch import UNSUPPORTED, needs_data
from memograd.errors import CaptureError, DataDependentError, MemogradError


def failure(error: Exception, where: str) -> MemogradError:
    """``error`` itself if it is one of ours; ``where`` it was raised, as words to put behind others."""
    if isinstance(error, MemogradError):
        return error
    if isinstance(error, UNSUPPORTED):
        ours = CaptureError(
            f"an operator cannot be captured{where}: {_first_line(error)}. Write this with operators on dense tensors, "
            "or compute it outside and pass its result in"
        )
    else:
        kind = DataDependentError if needs_data(error) else CaptureError
        message = f"{type(error).__name__}: {_first_line(error)}"
        ours = kind(f"the program raised while it was captured{where}: {message}")
    if not isinstance(ours, DataDependentError):
        ours.raised = error
    return ours


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

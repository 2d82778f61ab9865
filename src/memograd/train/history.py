"""What a training run recorded: one dict an epoch, readable as rows and as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from memograd.memory.plan import Plan


@dataclass
class History(Sequence[dict[str, Any]]):
    """``history[-1]`` is the last epoch's record, ``history["loss"]`` the losses of all epochs.

    Attributes:
        epochs: the records; each has ``epoch`` (from 1), ``loss`` (mean over the samples) and ``seconds``, with
            validation data also ``validation_loss`` and ``validation_accuracy``, with ``ema_decay`` these of the
            averaged weights (``ema_validation_loss``).
        backend: what ran the steps.
        backend_reason: why.
        ema: with ``ema_decay`` the model's ``state_dict`` with averaged parameters.
        plan: with a memory budget the plan of the step with the highest peak, if this run made a step.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    backend: str = ""
    backend_reason: str = ""
    plan: Plan | None = None
    ema: dict[str, Any] | None = None

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> list[dict[str, Any]]: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if not isinstance(key, str):
            return self.epochs[key]
        if key not in self.keys():
            raise KeyError(f"no column {key!r}; there are {', '.join(self.keys()) or 'no epochs yet'}")
        return [record.get(key) for record in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.epochs)

    def __contains__(self, key: object) -> bool:
        return key in self.keys() if isinstance(key, str) else key in self.epochs

    def keys(self) -> list[str]:
        """The columns."""
        return list(dict.fromkeys(name for record in self.epochs for name in record))

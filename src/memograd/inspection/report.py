"""What a preflight has to say: findings, and the numbers behind them. Read by people (``print``) and by programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memograd.findings import Findings, Severity, counted
from memograd.memory.budget import human


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``error``: it does not run, or a number is wrong. ``warning``: it runs, and is hardly what was meant,
            or costs time at each call. ``note``: good to know.
        kind: what sort of thing, always in the same words: ``missing rule``, ``stopped gradient``, ...
        what: a sentence.
        advice: what to do about it.
        module: the dotted path of the module in which it is; empty for the outermost one.
        source, line: file and line of the program, and the text of that line.
        names: the parameters (or inputs) concerned, all of them.
    """

    severity: Severity
    kind: str
    what: str
    advice: str = ""
    module: str = ""
    source: str = ""
    line: str = ""
    names: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        module = f" in module {self.module!r}" if self.module else ""
        return f"{f' at {self.source} ({self.line})' if self.source else ''}{module}"

    def __str__(self) -> str:
        lines = [f"{self.severity:8s} {self.kind}{self.place}: {self.what}"]
        return "\n".join(lines + [f"         {self.advice}"] * bool(self.advice))


@dataclass(frozen=True)
class Memory:
    """Bytes of a forward and backward pass, the loss included: parameters, buffers, inputs, activations, gradients,
    workspace.

    Attributes:
        unplanned_bytes: the most alive at any moment without a plan.
        floor_bytes: the least budget that a schedule was found for.
        resident_bytes: what is alive all the time: parameters, buffers, inputs.
        budget_bytes: the budget that was asked about; None where none was.
        overhead: time that its plan spends on computing things again, as a share of the operators'; None without one.
    """

    unplanned_bytes: int
    floor_bytes: int
    resident_bytes: int
    budget_bytes: int | None = None
    overhead: float | None = None

    @property
    def fits(self) -> bool | None:
        return None if self.budget_bytes is None else self.overhead is not None

    def __str__(self) -> str:
        numbers = {"unplanned peak": self.unplanned_bytes, "least that a plan needs": self.floor_bytes}
        text = ", ".join(f"{what} {human(size)} ({size} bytes)" for what, size in numbers.items())
        if self.budget_bytes is None:
            return text
        if self.overhead is None:
            return f"{text}; {human(self.budget_bytes)} is not enough"
        more = f", for {self.overhead:.1%} more time" if self.overhead else ""
        return f"{text}; {human(self.budget_bytes)} is enough{more}"


@dataclass(frozen=True)
class Direction:
    """The slope of the loss along one random direction of all parameters.

    Attributes:
        ours: by our gradients, computed in ``dtype``; ``autograd``: by PyTorch's, in float64.
        differences: by central differences of PyTorch's forward pass.
        ahead, behind: by one-sided ones, which differ where the loss has a kink.
    """

    ours: float
    autograd: float
    differences: float
    ahead: float
    behind: float
    agrees: bool
    dtype: str = "float64"

    def __str__(self) -> str:
        numbers = f"ours {self.ours:.9g}, autograd {self.autograd:.9g}, differences {self.differences:.9g}"
        return numbers if self.agrees else f"{numbers} (ahead {self.ahead:.9g}, behind {self.behind:.9g})"


@dataclass(frozen=True)
class Gradients:
    """Ours beside those of others.

    Attributes:
        count: how many were compared with ``torch.autograd``; 0 where that could not be.
        largest: the largest difference, as a share of that gradient's largest element, and whose it is.
        directions: slopes along random directions; none where ``why_not`` says so.
    """

    count: int = 0
    largest: float = 0.0
    name: str = ""
    directions: tuple[Direction, ...] = ()
    why_not: str = ""

    def __str__(self) -> str:
        lines = []
        if self.count:
            of = f" ({self.name!r})" if self.largest else ""
            lines.append(f"{self.count} beside torch.autograd: {self.largest:.2g} apart at most{of}")
        lines += [f"along direction {k}: {d}" for k, d in enumerate(self.directions, 1)]
        if self.why_not:
            lines.append(f"not compared: {self.why_not}")
        return "\n           ".join(lines)


@dataclass(frozen=True)
class Report(Findings[Finding]):
    """What ``mg.preflight`` has found.

    Attributes:
        name: of the model or function.
        findings: the severest first.
        forward, backward: how many operators the two passes have; 0 where it did not come so far.
    """

    name: str
    findings: tuple[Finding, ...]
    forward: int = 0
    backward: int = 0
    memory: Memory | None = None
    gradients: Gradients | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        memory = asdict(self.memory) | {"fits": self.memory.fits} if self.memory is not None else None
        return {"ok": self.ok, **asdict(self), "memory": memory}

    def __str__(self) -> str:
        lines = [f"Preflight of {self.name}: {counted(self.findings)}", *map(str, self.findings)]
        if self.backward:
            lines.append(f"operators  {self.forward} forward, {self.backward} backward")
        if self.memory is not None:
            lines.append(f"memory     {self.memory}")
        if self.gradients is not None:
            lines.append(f"gradients  {self.gradients}")
        return "\n".join(lines)

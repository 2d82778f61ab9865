"""What was tried: JSON that is written line by line, so that a run that is ended leaves behind what it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OK, FAULT, SKIPPED, LATE = "ok", "FAULT", "skipped", "no time"


class Ledger:
    """All cases of all workers."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.about: dict[str, Any] = {}
        self.cases: list[dict[str, Any]] = []

    def add(self, case: dict[str, Any]) -> None:
        self.cases.append(case)
        self.save()

    def note(self, part: str, name: str, status: str, note: str) -> None:
        """A case that no worker has told."""
        print(line(status, name, 0.0, note), flush=True)
        self.add({"part": part, "name": name, "status": status, "note": note})

    def save(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"about": self.about, "cases": self.cases}, indent=1) + "\n"
            (self.folder / "gpu.json").write_text(text, encoding="utf-8")

    def conclude(self) -> int:
        """The last lines; the exit code."""
        self.save()
        by_status = {s: [c for c in self.cases if c["status"] == s] for s in (OK, FAULT, SKIPPED, LATE)}
        print("\n" + ", ".join(f"{len(cases)} {status}" for status, cases in by_status.items()))
        for case in (*by_status[LATE], *by_status[FAULT]):
            print(f"  {case['status']:8}{case['part']}: {case['name']}: {case.get('note', '')}", flush=True)
        return 1 if by_status[FAULT] or not self.cases else 0


def line(status: str, name: str, seconds: float, note: str) -> str:
    """A row of the table."""
    return f"  {status:8}{name:44}{seconds:8.2f} s  {note}"

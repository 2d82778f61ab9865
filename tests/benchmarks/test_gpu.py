"""``benchmarks/gpu.py`` on a machine without a GPU: the script works, and what goes wrong in it does not go unseen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.fixture
def reporting() -> Any:
    from on_gpu import report

    return report


class Told:
    """What a report says of its cases."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []

    def __call__(self, message: dict[str, Any]) -> None:
        self.cases += [message["case"]] if "case" in message else []


@pytest.fixture
def told() -> Told:
    return Told()


def run(folder: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--device",
        "cpu",
        "--quick",
        "--seconds",  # on a machine that has much else to do
        "4400",
        "--json",
        str(folder),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cases = json.loads((folder / "gpu.json").read_text())["cases"] if (folder / "gpu.json").exists() else []
    return done.returncode, done.stdout + done.stderr, cases


def test_some_of_it_on_the_cpu(tmp_path: Path) -> None:
    code, out, cases = run(tmp_path, "--only", "programs", "modules", "optimizers", "lecture", "corners")
    assert code == 0, out
    assert {c["part"] for c in cases} == {"programs", "modules", "optimizers", "lecture", "corners"}
    assert {c["status"] for c in cases} <= {"ok", "skipped"} and len(cases) > 15


@pytest.mark.slow
def test_all_of_it_on_the_cpu(tmp_path: Path) -> None:
    code, out, cases = run(tmp_path)
    assert code == 0, out
    assert len({c["part"] for c in cases}) == 11


def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--only", "optimizers", "--json", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False
    )
    assert done.returncode == 2 and "--device cpu --quick" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_a_failure_does_not_hide_what_follows(reporting: Any, told: Told) -> None:
    report = reporting.Report(time.monotonic() + 60, told)
    with report.one_part("first", 10, 0):
        with report.case("wrong"):
            raise ValueError("of no use")
        with report.case("checked") as case:
            case.check(False, "not so")
            case.check(True, "so")
        with report.case("right") as case:
            case.note = "seen"
    with report.one_part("second", 10, 0):
        raise KeyError("before any case")
    assert [c["status"] for c in told.cases] == ["FAULT", "FAULT", "ok", "FAULT"]
    assert [c["name"] for c in told.cases] == ["wrong", "checked", "right", "itself"]
    assert "of no use" in told.cases[0]["note"] and told.cases[1]["note"] == "not so"
    assert "KeyError" in told.cases[3]["note"]


def test_what_takes_too_long_is_named_and_the_rest_goes_on(reporting: Any, told: Told) -> None:
    report = reporting.Report(time.monotonic() + 60, told)
    with report.one_part("slow", 0.05, 0), report.case("sleeps"):
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("a part's end is no error of its cases")
    with report.one_part("next", 10, 0), report.case("runs"):
        pass
    assert [(c["name"], c["status"]) for c in told.cases] == [
        ("sleeps", "no time"),
        ("the rest", "no time"),
        ("runs", "ok"),
    ]


def test_the_end_of_a_part_is_not_missed_where_it_is_swallowed(
    reporting: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python swallows what is raised while an object is deleted."""
    monkeypatch.setattr(reporting, "AGAIN", 0.05)
    report = reporting.Report(time.monotonic() + 60, told)
    with report.one_part("slow", 0.05, 0), report.case("sleeps"):
        with contextlib.suppress(BaseException):
            time.sleep(5)
        time.sleep(5)
    assert [c["status"] for c in told.cases] == ["no time", "no time"]


def test_what_was_wrong_before_the_time_was_over_stays_wrong(reporting: Any, told: Told) -> None:
    report = reporting.Report(time.monotonic() + 60, told)
    with report.one_part("slow", 0.05, 0), report.case("sleeps") as case:
        case.check(False, "not so")
        time.sleep(5)
    assert told.cases[0]["status"] == "FAULT" and told.cases[0]["note"].endswith("not so")


def test_what_would_not_fit_is_not_begun(reporting: Any, told: Told) -> None:
    report = reporting.Report(time.monotonic() + 5, told)
    with report.one_part("long", 5, 20) as there_is_time:
        assert not there_is_time
    assert [(c["part"], c["status"]) for c in told.cases] == [("long", "no time")]


def test_what_a_machine_lacks_is_no_fault(reporting: Any, told: Told) -> None:
    report = reporting.Report(time.monotonic() + 5, told)
    with report.one_part("some", 5, 0), report.case("needs more"):
        raise reporting.Skip("it is not there")
    assert told.cases[0]["status"] == "skipped"


def test_a_kernel_that_fails_later_is_a_fault_of_its_case(reporting: Any, told: Told) -> None:
    """And where the device answers nobody any more the process has to go."""
    errors = [RuntimeError("CUDA error: misaligned address")]

    def settle() -> None:
        if errors:
            raise errors.pop()

    report = reporting.Report(time.monotonic() + 60, told, settle)
    with report.one_part("some", 5, 0), report.case("launches"):
        pass
    assert told.cases[0]["status"] == "FAULT" and "misaligned" in told.cases[0]["note"]
    errors += [RuntimeError("CUDA error: device-side assert")] * 2
    with pytest.raises(reporting.Lost), report.one_part("some", 5, 0), report.case("launches"):
        pass


def test_each_part_leaves_the_later_ones_what_they_need() -> None:
    from on_gpu.parts import PARTS, limit

    names = list(PARTS)
    left, limits = 440.0, []
    for k, name in enumerate(names):
        limits.append(limit(name, names[k + 1 :], left))
        left -= limits[-1]  # each takes all that it may
        assert limits[-1] >= PARTS[name].least, name
    assert left >= 0


WORKER = """
import json, os, signal, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
tell = lambda **message: os.write(int(options["--worker"]), (json.dumps(message) + "\\n").encode())
tell(about={"device": "none"})
for part in sys.argv[sys.argv.index("--only") + 1:]:
    tell(part=part, limit=0.2)
    tell(begun=f"the first of {part}")
    if part == "modules":
        os.kill(os.getpid(), signal.SIGSEGV)
    if part == "generators":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        time.sleep(60)
    if part == "corners":
        os._exit(3)
    tell(case={"part": part, "name": f"the first of {part}", "status": "ok"})
    tell(ended=part)
"""


def test_other_processes_go_on_where_one_dies_hangs_or_loses_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from on_gpu import supervisor
    from on_gpu.ledger import Ledger

    monkeypatch.setattr(supervisor, "GRACE", 3.0)
    (tmp_path / "worker.py").write_text(WORKER)
    parts = ["programs", "modules", "optimizers", "generators", "lecture", "corners", "half"]
    ledger = Ledger(tmp_path)
    command = [sys.executable, str(tmp_path / "worker.py")]
    assert supervisor.Supervisor(command, [*parts], time.monotonic() + 300, ledger).run() == 0
    saved = json.loads((tmp_path / "gpu.json").read_text())
    assert saved["about"] == {"device": "none"}
    assert [(c["part"], c["status"]) for c in saved["cases"]] == [
        (part, "FAULT" if part in ("modules", "generators", "corners") else "ok") for part in parts
    ]
    notes = [c["note"] for c in saved["cases"] if c["status"] == "FAULT"]
    reasons = ("ended with SIGSEGV", "ended with SIGKILL", "the device is in no state")
    assert all(reason in note for reason, note in zip(reasons, notes, strict=True))
    assert all("the first of" in note for note in notes)
    assert ledger.conclude() == 1


def test_a_process_that_does_not_begin_is_tried_no_oftener_than_there_are_parts(tmp_path: Path) -> None:
    from on_gpu.ledger import Ledger
    from on_gpu.supervisor import Supervisor

    ledger = Ledger(None)
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    Supervisor(command, ["programs", "modules"], time.monotonic() + 60, ledger).run()
    assert [(c["part"], c["status"]) for c in ledger.cases] == [("programs", "FAULT"), ("modules", "FAULT")]

"""``benchmarks/gpu.py`` on a machine without a GPU: the script works, and what goes wrong in it does not go unseen."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from on_gpu import report

    return report


def run(folder: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--device",
        "cpu",
        "--quick",
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
    done = subprocess.run([sys.executable, str(SCRIPT), "--device", "cuda"], capture_output=True, text=True)
    assert done.returncode == 2 and "--device cpu --quick" in done.stderr


def test_a_failure_does_not_hide_what_follows(
    reporting: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = reporting.Report(60, tmp_path, {})
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
    assert report.conclude() == 1
    assert [c.status for c in report.cases] == ["FAULT", "FAULT", "ok", "FAULT"]
    saved = json.loads((tmp_path / "gpu.json").read_text())["cases"]
    assert [c["name"] for c in saved] == ["wrong", "checked", "right", "itself"]
    assert "of no use" in saved[0]["note"] and saved[1]["note"] == "not so"
    assert "second: itself: KeyError" in capsys.readouterr().out


def test_what_takes_too_long_is_named_and_the_rest_goes_on(reporting: Any) -> None:
    report = reporting.Report(60, None, {})
    with report.one_part("slow", 0.05, 0), report.case("sleeps"):
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("a part's end is no error of its cases")
    with report.one_part("next", 10, 0), report.case("runs"):
        pass
    assert [(c.name, c.status) for c in report.cases] == [
        ("sleeps", "no time"),
        ("the rest", "no time"),
        ("runs", "ok"),
    ]
    assert report.conclude() == 0


def test_what_would_not_fit_is_not_begun(reporting: Any) -> None:
    report = reporting.Report(5, None, {})
    with report.one_part("long", 100, 20) as there_is_time:
        assert not there_is_time
    assert [(c.part, c.status) for c in report.cases] == [("long", "no time")]


def test_what_a_machine_lacks_is_no_fault(reporting: Any) -> None:
    report = reporting.Report(5, None, {})
    with report.one_part("some", 5, 0), report.case("needs more"):
        raise reporting.Skip("it is not there")
    assert report.cases[0].status == "skipped" and report.conclude() == 0

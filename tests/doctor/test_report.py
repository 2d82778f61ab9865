from __future__ import annotations

import json

from memograd.doctor.report import Finding, Report, Where
from memograd.findings import severest_first

LOG = Finding(
    "error",
    "log at the edge of its domain",
    "1 of 3 elements is -inf",
    Where("head", "train.py:31", "  loss = -torch.log(p).mean()\n", "aten.log.default", "forward", index=(2,)),
    evidence=("log(0.0) = -inf", "float64 gives -inf too"),
    fix="p = p.clamp_min(1e-7)\nloss = -torch.log(p).mean()",
    tried="with this the step is finite",
    names=("a", "b", "c", "d", "e"),
    numbers={"value": float("-inf")},
)


def test_a_finding_reads_from_what_to_where_to_why_to_what_to_do() -> None:
    assert str(LOG).splitlines() == [
        "error  log at the edge of its domain: 1 of 3 elements is -inf",
        "       where     train.py:31 in module 'head', forward",
        "                     loss = -torch.log(p).mean()",
        "       operator  aten.log.default, element [2]",
        "       evidence  log(0.0) = -inf",
        "                 float64 gives -inf too",
        "       concerns  'a', 'b', 'c', 'd' and 1 more",
        "       do        p = p.clamp_min(1e-7)",
        "                 loss = -torch.log(p).mean()",
        "       tried     with this the step is finite",
    ]


def test_a_finding_without_a_place_is_one_line() -> None:
    assert str(Finding("note", "nothing", "all is well")) == "note   nothing: all is well"


def test_a_report_is_strict_json_and_ok_without_errors_and_warnings() -> None:
    report = Report("Net", severest_first([Finding("note", "nothing", ""), LOG]))
    text = report.to_json()
    assert json.loads(text, parse_constant=lambda name: 1 / 0)["findings"][0]["numbers"]["value"] == "-inf"
    assert not report.ok
    assert Report("Net", (Finding("note", "nothing", ""),)).ok
    assert str(report).startswith("Net: 1 error, 1 note\nerror  log")
    assert report.of("note")[0].kind == "nothing"

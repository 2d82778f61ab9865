"""The command line: exit codes, one line for every error, resumption after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from memograd.cli.main import main


def test_train_xor(tmp_path, capsys):
    assert main(["train", "xor", "--backend", "eager", "--epochs", "2500", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Epoch [1000/2500]" in out and "Epoch [2500/2500]" in out and "0 xor 1" in out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["epochs"] == 2500 and metrics["right"] == 4
    for name in ("model.safetensors", "curve.svg", "curve.png", "checkpoint.safetensors"):
        assert (tmp_path / name).stat().st_size > 100, name


def test_json_is_one_object_and_quiet_is_silent(tmp_path, capsys):
    base = ["train", "xor", "--backend", "eager", "--epochs", "10", "--out", str(tmp_path)]
    assert main([*base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "xor"
    assert main([*base, "-q"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "bad", [["--epochs", "0"], ["--lr", "nan"], ["--lr", "-1"], ["--seed", "x"], ["--backend", "magic"], ["--nonsense"]]
)
def test_wrong_usage_is_one_line_and_2(bad, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "xor", *bad])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_are_one_line_and_1(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "checkpoint.safetensors").write_bytes(b"nonsense")
    xor = ["train", "xor", "--epochs", "10", "--backend", "eager"]
    for arguments in (
        [*xor, "--out", str(blocked)],
        [*xor, "--out", str(tmp_path / "damaged"), "--resume"],
        [*xor, "--device", "nonsense"],
        [*xor, "--batch-size", "3"],
    ):
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("memograd: ") and err.count("\n") == 1, err
    assert (tmp_path / "damaged" / "checkpoint.safetensors").read_bytes() == b"nonsense"


def test_resume_with_other_settings_is_refused(tmp_path, capsys):
    xor = ["train", "xor", "--backend", "eager", "--epochs", "10", "--out", str(tmp_path), "-q"]
    assert main(xor) == 0
    assert main([*xor, "--resume", "--lr", "0.2"]) == 1
    assert "lr" in capsys.readouterr().err


def start(folder, *more):
    command = [sys.executable, "-m", "memograd", "train", "xor", "--backend", "eager", "--epochs", "6000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(folder), *more],
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_stopped_run_resumes_to_the_same_weights(tmp_path, sign):
    process = start(tmp_path / "stopped", "-q")
    deadline = time.time() + 60
    while not (tmp_path / "stopped" / "checkpoint.safetensors").exists() and time.time() < deadline:
        time.sleep(0.002)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    if sign == signal.SIGINT:
        assert process.returncode == 130 and "--resume" in err and err.count("\n") == 1
    xor = ["train", "xor", "--backend", "eager", "--epochs", "6000", "-q", "--out"]
    assert main([*xor, str(tmp_path / "stopped"), "--resume"]) == 0
    assert main([*xor, str(tmp_path / "whole")]) == 0
    stopped, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert all(stopped[name].equal(whole[name]) for name in whole)


def test_explain(capsys):
    assert main(["explain", "xor", "--sample", "2"]) == 0
    assert "Three witnesses" in capsys.readouterr().out
    assert main(["explain", "xor", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["gradients"]) == 9


def test_rules_lists_the_table(capsys):
    assert main(["rules", "aten.sin."]) == 0
    out = capsys.readouterr().out
    assert "aten.sin.default" in out and "x̄ = ȳ · " in out and "pointwise" in out
    assert main(["rules", "softmax", "--kind", "rule", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["entries"]
    assert rows and all(r["kind"] == "rule" and "softmax" in r["operator"] for r in rows)
    assert main(["rules", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["rules", "no_such_operator"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_missing_rules_have_reasons(capsys):
    pytest.importorskip("yaml")
    assert main(["rules", "--missing", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(row["why"] and not row["core"] for row in report["missing"])
    assert main(["rules", "--missing", "sparse"]) == 0
    assert "aten._sparse_sparse_matmul.default" in capsys.readouterr().out


def test_check_of_the_database(capsys):
    pytest.importorskip("expecttest")
    check = ["check", "--opinfo", "--only", "sigmoid"]
    assert main([*check, "--json", "--limit", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"]["wrong"] == 0 and {t["entry"] for t in report["tallies"]} >= {"sigmoid"}
    assert main([*check, "--order", "2", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*check, "--record"]) == 1  # it would replace the counts of everything else
    assert main(["check", "--opinfo", "--only", "no_such_entry"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    with pytest.raises(SystemExit) as stop:
        main(["check"])
    assert stop.value.code == 2


def test_check_says_so_when_a_rule_is_wrong(capsys, monkeypatch):
    pytest.importorskip("expecttest")
    import torch

    from memograd.rules import registry

    sine = torch.ops.aten.sin.default
    monkeypatch.setitem(registry._TABLE, sine, registry.Entry(sine, "zero", None, "", "", ""))
    assert main(["check", "--opinfo", "--only", "sin.", "--limit", "1"]) == 1
    assert "wrong" in capsys.readouterr().out


def test_it_runs_from_its_sources_without_being_installed(monkeypatch, capsys):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(["rules", "mul.Tensor"]) == 0 and "mul" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert "memograd (not installed)" in capsys.readouterr().out

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from memograd.cli.plain import plain, show_what_can_be_shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x̄ = ȳ · 2", "x_bar = y_bar * 2"),
        ("x̂, θ ← θ - η g", "x_hat, theta <- theta - eta g"),
        ("v̄ = Pᵀ ȳ, Σ x²", "v_bar = P^T y_bar, sum x^2"),
        ("5 µs", "5 us"),
        ("漢", "?"),
        ("plain as it is", "plain as it is"),
    ],
)
def test_mathematics_in_ascii(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"x_bar^2"), ("latin-1", b"x_bar\xb2"), ("utf-8", None)])
def test_only_what_the_encoding_lacks_is_replaced(encoding: str, expected: bytes | None) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show_what_can_be_shown(stream)
    stream.write("x̄²")
    stream.flush()
    assert raw.getvalue() == (expected or "x̄²".encode())


@pytest.mark.one_in(4)
@pytest.mark.parametrize("setting", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
@pytest.mark.parametrize("command", [["explain", "xor"], ["rules", "mul.Tensor"]], ids=" ".join)
def test_commands_end_well_on_a_plain_terminal(command: list[str], setting: dict[str, str]) -> None:
    env = {**os.environ, "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1", **setting}
    done = subprocess.run([sys.executable, "-m", "memograd", *command], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"_bar" in done.stdout and b"Unicode" not in done.stderr

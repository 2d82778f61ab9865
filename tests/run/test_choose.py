"""``auto`` picks the fastest backend, says why, and spends no more time on compiling than it was told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from single_precision import fp32_precision
from torch import nn

import memograd as mg
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.lower import lower as lowering
from memograd.lower.lower import lower
from memograd.run import choose as choosing
from memograd.run.backend import Backend
from memograd.run.choose import choose
from memograd.run.eager import Eager
from memograd.run.records import Record, fingerprint


@pytest.fixture(autouse=True)
def a_machine_that_has_measured_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))
    return tmp_path / "native"


def step_graph(width: int = 3) -> tuple[Graph, list[torch.Tensor]]:
    x, w = torch.randn(4, width), torch.randn(width, 2, requires_grad=True)
    joint = mg.differentiate(mg.capture(lambda a, b: (a @ b).tanh().sum(), x, w))
    return lower(joint), [t.detach() for t in joint.bind((x, w), {})]


class Backends:
    """Stand-ins that take as long as they are told to; ``made`` says which were built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuse: str = "", **seconds: float) -> None:
        self.made: list[str] = []
        self.measured: list[list[str]] = []

        def build(name: str) -> Any:
            def made(graph: Graph) -> Backend:
                self.made.append(name)
                if name == refuse:
                    raise BackendError("no such kernel")
                backend = Eager(graph)
                backend.name = name
                return backend

            return made

        def measure(backends: dict[str, Backend], flat: Any) -> dict[str, float]:
            self.measured.append(sorted(backends))
            return {name: seconds[name] for name in backends}

        monkeypatch.setattr(choosing, "BACKENDS", {name: build(name) for name in ("eager", "native", "inductor")})
        monkeypatch.setattr(choosing, "_seconds", measure)


def test_the_faster_of_those_that_build_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, eager=2e-5, native=1e-5, inductor=1e-6)
    choice = choose(*step_graph())
    assert choice.backend.name == "native" and backends.made == ["native"]
    assert choice.reason == "measured: native 10.0 µs, eager 20.0 µs a step"


def test_hardly_faster_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a clock says of two that are alike differs by some hundredths."""
    Backends(monkeypatch, eager=1e-5, native=0.96e-5)
    assert choose(*step_graph()).backend.name == "eager"


def test_short_steps_are_measured_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in a hundred that takes long, and the first: neither says how long a step takes."""
    ran = {"eager": 0, "native": 0}
    now = [0.0]

    class Timed(Eager):
        def step(self, flat: Any) -> Any:
            ran[self.name] += 1
            quick = {"eager": 1e-4, "native": 2e-4}[self.name]
            now[0] += 0.05 if ran[self.name] in (1, 50) else quick
            return []

    graph, flat = step_graph()
    native = Timed(graph)
    native.name = "native"
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: now[0])
    seconds = choosing._seconds({"eager": Timed(graph), "native": native}, flat)
    assert seconds == pytest.approx({"eager": 1e-4, "native": 2e-4}) and ran["eager"] > 100


def test_long_steps_are_measured_no_oftener_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran = [0.0], []

    class Timed(Eager):
        def step(self, flat: Any) -> Any:
            ran.append(self.name)
            now[0] += 1.0
            return []

    graph, flat = step_graph()
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: now[0])
    assert choosing._seconds({"eager": Timed(graph)}, flat) == {"eager": 1.0} and len(ran) == 4


def test_what_was_measured_is_found_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, eager=2e-5, native=1e-5)
    first, again = choose(*step_graph()), choose(*step_graph())
    assert backends.measured == [["eager", "native"]]
    assert again.backend.name == first.backend.name == "native"
    assert again.reason == "measured before: native 10.0 µs, eager 20.0 µs a step"
    choose(*step_graph(width=5))
    assert len(backends.measured) == 2, "another geometry"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    choose(*step_graph())
    assert len(backends.measured) == 3, "other surroundings"


def test_fused_kernels_are_tried_where_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, eager=2e-5, native=1e-5, inductor=1e-6)
    choice = choose(*step_graph(), compile_seconds=1.0)
    assert choice.backend.name == "native" and "inductor" not in backends.made
    assert "inductor is not tried: compiling is estimated to take 1" in choice.reason
    choice = choose(*step_graph(), compile_seconds=60.0)
    assert choice.backend.name == "inductor" and "inductor 1.0 µs, native 10.0 µs, eager 20.0 µs" in choice.reason
    assert "inductor compiled in" in choice.reason


def test_how_long_compiling_takes_is_known_from_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, eager=2e-5, native=1e-5, inductor=1e-6)
    choose(*step_graph(), compile_seconds=60.0)
    record = Record.of(step_graph()[0])
    assert record.earlier and record.compiling["inductor"] < 1
    assert choose(*step_graph(), compile_seconds=1.0).backend.name == "inductor"
    record.compiling["inductor"] = 50.0
    record.keep()
    choice = choose(*step_graph(), compile_seconds=49.0)
    assert choice.backend.name == "native" and "compiling took 50 s" in choice.reason
    assert len(backends.measured) == 1


def test_kernels_that_lost_are_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, eager=2e-5, native=1e-5, inductor=3e-5)
    assert choose(*step_graph(), compile_seconds=60.0).backend.name == "native"
    choice = choose(*step_graph(), compile_seconds=60.0)
    assert backends.made.count("inductor") == 1 and "inductor was measured before, 30.0 µs" in choice.reason


@pytest.mark.parametrize("refused", ["native", "inductor"])
def test_one_that_cannot_run_the_step_is_left_out(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = Backends(monkeypatch, refused, eager=2e-5, native=1e-5, inductor=1e-5)
    for _ in range(2):
        choice = choose(*step_graph(), compile_seconds=60.0)
        assert choice.backend.name == {"native": "inductor", "inductor": "native"}[refused]
        assert f"{refused} cannot run this step: no such kernel" in choice.reason
    assert backends.made.count("inductor") == (1 if refused == "inductor" else 2)


def test_a_compiler_that_was_missing_is_tried_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    graph, flat = step_graph()
    for cause in map(_as_inductor_raises, (OSError("No space left on device"), InvalidCxxCompiler())):
        backends = Backends(monkeypatch, eager=2e-5, native=1e-5, inductor=1e-6)

        def build(graph: Graph, cause: BaseException = cause) -> Backend:
            raise BackendError("no kernel") from cause

        working = choosing.BACKENDS["inductor"]
        monkeypatch.setitem(choosing.BACKENDS, "inductor", build)
        assert "inductor cannot run this step" in choose(graph, flat, compile_seconds=60.0).reason
        monkeypatch.setitem(choosing.BACKENDS, "inductor", working)
        assert choose(graph, flat, compile_seconds=60.0).backend.name == "inductor" and len(backends.made) > 2
        Record.of(graph).path.unlink()


def _as_inductor_raises(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception:
            raise RuntimeError("it failed") from None
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "text", ['{"seconds": [', "{}", "[]", '{"seconds": {"eager": 1, "native": 2}, "compiling": {}, "failed": 3}', ""]
)
def test_a_record_that_cannot_be_read_is_measured_again(
    text: str, a_machine_that_has_measured_nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Backends(monkeypatch, eager=2e-5, native=1e-5)
    graph, flat = step_graph()
    choose(graph, flat)
    (path,) = a_machine_that_has_measured_nothing.glob("times-*.json")
    assert path.name == f"times-{fingerprint(graph)}.json" and set(json.loads(path.read_text())) == {
        "seconds",
        "compiling",
        "failed",
    }
    path.write_text(text)
    choice = choose(graph, flat)
    assert choice.reason.startswith("measured: ") and choice.backend.name == "native"


def test_measuring_changes_nothing() -> None:
    """Steps write in place: what is measured writes to copies, and draws nothing."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), check="never")
    before = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(0)
    loss = step(torch.ones(5, 3), torch.ones(5, 1))
    after = [p.detach().clone() for p in model.parameters()]
    for p, start in zip(model.parameters(), before, strict=True):
        p.data.copy_(start)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(0)
    expected = nn.functional.mse_loss(model(torch.ones(5, 3)), torch.ones(5, 1))
    expected.backward()
    optimizer.step()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(after, [p.detach() for p in model.parameters()])


def test_a_step_is_lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Graph] = []

    def counted(graph: Graph) -> Graph:
        calls.append(graph)
        return lowering.lower(graph)

    monkeypatch.setattr("memograd.pipeline.lower", counted)
    model = nn.Linear(3, 1)
    mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), check="never")(
        torch.ones(5, 3), torch.ones(5, 1)
    )
    assert len(calls) == 1


@pytest.mark.parametrize("library", ["cuda", "mkldnn"])
def test_what_was_measured_is_for_the_precisions_it_was_measured_in(library: str) -> None:
    """Set in the newer way, where ``torch.get_float32_matmul_precision`` raises an error."""
    graph, _ = step_graph()
    before = fingerprint(graph)
    with fp32_precision(getattr(torch.backends, library).matmul, "tf32"):
        assert fingerprint(graph) != before

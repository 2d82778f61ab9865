"""A warning of ours names a line of the user's program, wherever in the library it comes from."""

import ast
import functools
import inspect
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import memograd as mg
from memograd import c_compiler
from memograd.cautions import caution


def one_warning(call, words):
    """The file and the line of the only warning of ours that ``call`` leads to."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    [warning] = [w for w in said if words in str(w.message)]
    return warning.filename, warning.lineno


def place_of(call):
    """Of a lambda: this file, and its line."""
    return __file__, inspect.getsourcelines(call)[1]


def network():
    return nn.Sequential(nn.Linear(4, 3))


def test_it_is_the_line_that_calls():
    call = lambda: caution("here")  # noqa: E731
    assert one_warning(call, "here") == place_of(call)


def test_wrappers_of_the_standard_library_are_no_program():
    call = functools.singledispatch(lambda x: caution("here"))
    assert one_warning(lambda: call(1), "here")[0] == __file__


def test_without_a_program_it_is_the_outermost_frame(monkeypatch):
    monkeypatch.setattr(sys.modules["memograd.cautions"], "_OWN", "")  # everything is ours
    assert one_warning(lambda: caution("here"), "here")[0]


def test_a_step_that_is_not_compared():
    model, calls = network(), []

    def once(output, target):
        calls.append(None)  # something else is found at each run
        return (output - target).square().mean() + len(calls) * 0.0

    step = mg.TrainStep(model, once, torch.optim.SGD(model.parameters(), lr=0.1))
    call = lambda: step(torch.randn(2, 4), torch.randn(2, 3))  # noqa: E731
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    assert {(w.filename, w.lineno) for w in said} <= {place_of(call)}


def test_a_budget_that_the_native_backend_cannot_promise():
    call = lambda: mg.wrap(network(), memory_budget="1GiB", backend="native")  # noqa: E731
    assert one_warning(call, "running on the eager backend") == place_of(call)


def test_a_step_with_a_budget_on_the_native_backend():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, memory_budget="1GiB", backend="native")
    call = lambda: step(torch.randn(2, 4), torch.randn(2, 3))  # noqa: E731
    assert one_warning(call, "running on the eager backend") == place_of(call)


def test_a_derivative_outside_of_a_budget():
    model = mg.wrap(network(), memory_budget="1GiB")
    x = torch.randn(2, 4, requires_grad=True)

    def twice():
        [g] = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        g.square().sum().backward()

    filename, line = one_warning(twice, "does not cover this derivative")
    assert filename == __file__
    assert 0 < line - inspect.getsourcelines(twice)[1] < 3


def test_a_folder_that_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "native"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))
    c_compiler._private_temporary.cache_clear()
    call = lambda: c_compiler.cache_folder()  # noqa: E731
    assert one_warning(call, "MEMOGRAD_CACHE") == place_of(call)


def test_nobody_warns_in_another_way():
    for path in Path(c_compiler.__file__).parent.rglob("*.py"):
        if path.name == "cautions.py":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        named = [ast.unparse(call.func) for call in calls]
        assert "warnings.warn" not in named, path

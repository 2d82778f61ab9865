"""Texts of tensors that a program goes by, returns or leaves."""

import dataclasses
import io
import logging

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
SCALES = {str(torch.tensor(k)): float(k) for k in (2, 3)}


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.weight, self.run = nn.Parameter(torch.ones(2, dtype=F64)), run

    def forward(self, n):
        return self.run(self.weight, n)


RUNS = [
    lambda w, n: w * SCALES.get(str(n), 1.0),
    lambda w, n: w * (2.0 if repr(n) == "tensor(3)" else 5.0),
]
ROWS = [torch.tensor([k, 2.0], dtype=F64) for k in (1.0, 2.0, 3.0)]


@dataclasses.dataclass
class Holds:
    tensor: torch.Tensor


OF_ROWS = {f"{ROWS[1]}": 5.0, f"x{ROWS[1]}": 3.0, "a" + str(ROWS[1]): 7.0}
OF_ROWS |= {str([ROWS[1]]): 11.0, repr(Holds(ROWS[1])): 2.0}


def printed(n):
    out = io.StringIO()
    print(n, file=out)
    return out.getvalue()


GOES_BY_IT = [
    lambda w, n: w * (2.0 if "[2." in printed(n) else 3.0),
    lambda w, n: w * OF_ROWS.get(f"{n}", 1.0) * OF_ROWS.get(f"x{n}", 1.0),
    lambda w, n: w * OF_ROWS.get("a" + str(n), 1.0) * OF_ROWS.get(f"{[n]}", 1.0),
    lambda w, n: w * OF_ROWS.get(repr(Holds(n)), 1.0),
    lambda w, n: w * (2.0 if "2., 2" in f"{n}" else 3.0),
    lambda w, n: w * (2.0 if str(n) < str(ROWS[1]) else 3.0),
    lambda w, n: w * (2.0 if str(n) == str(ROWS[1]) else 3.0),
    lambda w, n: w * (2.0 if str(n).startswith("tensor([3") else 3.0),
    lambda w, n: w * len(str(n * 1000)),
]


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("run", RUNS)
def test_what_is_found_by_the_text_of_a_tensor_is_that_of_each_call(run, check):
    model, plain = mg.wrap(Program(run), check=check), Program(run)
    for k in (2, 3, 5, 2):
        n = torch.tensor(k)
        mine, theirs = (torch.autograd.grad(m(n).sum(), [m.weight])[0] for m in (model, plain))
        torch.testing.assert_close(mine, theirs)


def test_a_text_that_is_returned_is_that_of_each_call():
    model = mg.wrap(Program(lambda w, n: (w * n, str(n))))
    for k in (2, 3):
        text = model(torch.tensor(k))[1]
        assert (type(text), text) == (str, f"tensor({k})")


@pytest.mark.parametrize("run", GOES_BY_IT)
def test_what_a_program_does_by_the_text_of_a_tensor_with_dimensions_is_that_of_each_call(run):
    model, plain = mg.wrap(Program(run), check="never"), Program(run)
    for k in (0, 1, 2, 1):
        mine, theirs = (torch.autograd.grad(m(ROWS[k]).sum(), [m.weight])[0] for m in (model, plain))
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("check", ["first", "never"])
def test_a_text_that_is_left_behind_is_that_of_each_call(check):
    kept = [[], []]
    for k, texts in enumerate(kept):
        model = Program(lambda w, n, texts=texts: (texts.append(str(n)), w * n)[1])
        model = mg.wrap(model, check=check) if k else model
        for n in (2, 3):
            model(torch.tensor(n))
    assert kept[0] == kept[1]


def test_one_that_is_only_shown_asks_for_no_other_capture(caplog):
    def run(w, n):
        logging.getLogger(__name__).warning("%s %s", n, f"of {n}")
        print(f"{n}" if len(n) else "", [n])
        assert len(n), f"nothing in {n}"
        return w * n

    model = mg.wrap(Program(run))
    for row in ROWS:
        model(row).sum().backward()
    assert len(model.forward.captures) == 1 and "no values yet" in caplog.text

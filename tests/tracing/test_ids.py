"""Programs that ask for ids of arguments: what they find, compute or return by these is PyTorch's for each argument."""

import zlib

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
ARGUMENTS = [torch.full((), 2.0, dtype=F64) for _ in range(3)]
FOUND = id(ARGUMENTS[1])
TEXTS = {f"x{FOUND}": 5.0, hex(FOUND): 7.0, f"k{FOUND:X}": 11.0, "1" + str(FOUND): 13.0}


def by_a_text(x, n):
    return x * TEXTS.get(f"x{id(n)}", 1.0)


def by_digits(x, n):
    return x * TEXTS.get(hex(id(n)), 1.0) * TEXTS.get(f"k{id(n):X}", 1.0)


def by_a_longer_number(x, n):
    return x * TEXTS.get("1" + str(id(n)), 1.0)


def by_a_remainder(x, n):
    return x * (id(n) // 16 % 1009)


def by_order(x, n):
    return x * (2.0 if id(n) < FOUND else 3.0)


def times_an_id(x, n):
    return x * id(n)


def by_a_part(x, n):
    return x * len({*hex(id(n))[-6:]}) * int(str(id(n))[-6:], 10)


def by_a_part_of_a_longer_text(x, n):
    return x * int(f"x{id(n)}"[-6:]) * int("n{}".format(id(n))[-6:])  # noqa: UP032


def by_a_digit(x, n):
    return x * sum(k * repr(id(n) // 32).endswith(str(k)) for k in range(10))


def by_a_digest(x, n):
    return x * zlib.crc32(str(id(n)).encode())


def by_its_bytes(x, n):
    return x * sum(id(n).to_bytes(8, "little")[:3])


def by_the_hash_of_a_text(x, n):
    return x * (hash(f"x{id(n)}") % 1009)


PROGRAMS = [by_a_text, by_digits, by_a_longer_number, by_a_remainder, by_order, times_an_id]
PROGRAMS += [by_a_part, by_a_part_of_a_longer_text, by_a_digit, by_a_digest, by_its_bytes, by_the_hash_of_a_text]


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.weight, self.run = nn.Parameter(torch.ones(2, dtype=F64)), run

    def forward(self, n):
        return self.run(self.weight, n)


def _gradients(run, way):
    model = Program(run)
    step = None
    if way == "step":
        step = mg.TrainStep(model, lambda y, _: y.sum(), torch.optim.SGD(model.parameters(), 1.0))
    if way not in (None, "step"):
        mg.wrap(model, check=way)
    gradients = []
    for n in [*ARGUMENTS, ARGUMENTS[1]]:
        before = model.weight.detach().clone()
        if step is not None:
            step(n, n[None])
            gradients.append(before - model.weight.detach())
        else:
            (gradient,) = torch.autograd.grad(model(n).sum(), [model.weight])
            gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("way", ["first", "never", "step"])
@pytest.mark.parametrize("run", PROGRAMS, ids=lambda f: f.__name__)
def test_what_is_found_by_an_id_is_found_for_each_argument(run, way):
    torch.testing.assert_close(_gradients(run, way), _gradients(run, None))


def test_an_id_that_is_returned_is_that_of_the_argument():
    model = mg.wrap(Program(lambda x, n: (x * n, id(n), f"n{id(n)}")))
    for n in ARGUMENTS:
        _, number, text = model(n)
        assert (type(number), number, text) == (int, id(n), f"n{id(n)}")


def test_a_text_with_an_id_cannot_be_left_behind():
    seen = {}

    def run(x, n):
        seen[f"n{id(n)}"] = 1
        return x * n

    with pytest.raises(mg.CaptureError, match="leaves the id of a tensor"):
        mg.wrap(Program(run))(ARGUMENTS[0])
    assert not seen


@pytest.mark.parametrize("made", [lambda n: [f"n{id(n)}"], lambda n: {"a": (1, hex(id(n)))}, lambda n: {id(n): 1}])
def test_an_id_cannot_be_left_inside_of_something(made):
    model = Program(lambda x, n: x * n)
    model.run = lambda x, n: (setattr(model, "last", made(n)), x * n)[1]
    with pytest.raises(mg.CaptureError, match="leaves the id of a tensor"):
        mg.wrap(model)(ARGUMENTS[0])


def test_other_arguments_take_the_same_graph_where_nothing_is_found_by_a_text():
    model = mg.wrap(Program(by_a_text))
    for n in (ARGUMENTS[0], ARGUMENTS[2]):
        model(n).sum().backward()
    assert len(model.forward.captures) == 1

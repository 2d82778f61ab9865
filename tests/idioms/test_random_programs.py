"""Programs nobody wrote for us, drawn at random, against plain torch.autograd: first and second derivatives, steps."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from idioms.agreement import check_function, check_step, plain_grad
from idioms.drawn import Drawn
from idioms.families import FURTHER, programs

FEW, MANY, BLOCK = 40, 3000, 50
WAYS = ("grad", "vjp", "hvp", "step")


@pytest.fixture(autouse=True, scope="module")
def double():
    """Factories make float64, as the inputs are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def seeded(examples, derandomize=True):
    """The same examples in every run. A failing one is made shorter by ``agree``, not by hypothesis."""
    return settings(
        max_examples=examples,
        phases=[Phase.generate],
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@given(program=programs(), way=st.sampled_from(WAYS))
@seeded(FEW)
def test_programs(program, way):
    agree(program, [way])


@pytest.mark.slow
@pytest.mark.parametrize("block", range(MANY // BLOCK))
def test_many_programs(block):
    agree_all(programs(most=10), block)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(MANY // 4 // BLOCK))
def test_many_programs_of_further_families(block):
    agree_all(programs(most=10, families=FURTHER), block)


@pytest.mark.parametrize("saved, fits", [("y.exp()", True), ("y * y", False)])
def test_data_is_assigned_where_no_saved_value_changes(saved, fits):
    """Of ``y * y`` PyTorch saves y itself, and would differentiate with what is assigned."""
    program = Drawn(2, 3, 0)
    assert program.attempt("y = x * w", f"z = {saved}", "y.data = F.relu(x) * 1") == fits
    if fits:
        assert program.conclude("z.sum() + (y * w).sum()")
        agree(program, ["grad"])


def agree_all(strategy, block):
    """The programs of one ``block``, the same in every run. All of them run, whichever fails."""
    failed = []

    @given(program=strategy)
    @seed(block)
    @seeded(BLOCK, derandomize=False)
    def run(program):
        try:
            agree(program, WAYS)
        except AssertionError as error:
            failed.append(str(error))

    run()
    assert not failed, f"{len(failed)} of {BLOCK} programs:\n\n" + "\n\n".join(dict.fromkeys(failed))


def agree(program, ways):
    if why := difference(program, ways):
        program = program.reduced(lambda p: type(difference(p, ways)) is type(why))
        raise AssertionError(f"{difference(program, ways)}\n\n{program!r}") from why


def difference(program, ways):
    """What is not as PyTorch has it; None if all is well."""
    try:
        inputs, rest = program.inputs()
        check_function(program.function(), inputs, rest, program.function(plain_grad), program.tolerance, ways)
        if "step" in ways and program.trains():
            plain = program.model(plain_grad)
            check_step(program.model(), *program.batch(), plain=plain, tolerance=program.tolerance)
    except Exception as error:
        return error
    finally:
        torch.set_grad_enabled(True)

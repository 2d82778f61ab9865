"""What a look sees is a text that is the same for the same values, however they lie in memory."""

import pytest
import torch

import memograd as mg
from memograd.looks import DecisionChangedError, comparing, look, what_is_seen

Z = torch.tensor([1 + 2j, -3j], dtype=torch.complex128)


@pytest.mark.parametrize(
    ("x", "same"),
    [
        (Z.conj(), Z.conj().resolve_conj()),
        (Z.conj().imag, -Z.imag),
        (torch.arange(6.0).view(2, 3).T, torch.arange(6.0).view(2, 3).T.contiguous()),
        (torch.tensor([float("nan"), 1.0]), torch.tensor([float("nan"), 1.0])),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (torch.ones(0), torch.ones(0)),
    ],
    ids=["conjugate", "negative", "transposed", "nan", "bfloat16", "nothing"],
)
def test_the_same_values_are_seen_as_the_same(x, same):
    assert what_is_seen(x, "value") == what_is_seen(same, "value")
    if x.numel():
        assert what_is_seen(x, "value") != what_is_seen(same + 1 if not same.isnan().any() else same * 0, "value")


def test_looks_compare_only_where_they_are_asked_to():
    x = torch.tensor(2.0)
    look(x, 0, "value", "another")
    with comparing(), pytest.raises(DecisionChangedError, match="look 0 sees 0x1"):
        look(x, 0, "value", "another")


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_function_may_look_at_conjugates():
    def f(z):
        first = z.detach().conj().tolist()[0]
        return (z * first).real.sum()

    torch.testing.assert_close(mg.grad(f)(Z), torch.full((2,), 1 + 2j, dtype=torch.complex128))

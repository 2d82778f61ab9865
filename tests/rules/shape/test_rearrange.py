"""Rules of views, joins and paddings, against autograd."""

import pytest
import torch
import torch.nn.functional as F
from witness import check

import memograd as mg

CASES = {
    "view": lambda x: x.view(4, 6),
    "reshape_of_transpose": lambda x: x.transpose(0, 1).reshape(-1, 2),
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(2, 0, -2),
    "transpose": lambda x: x.transpose(-1, 0),
    "squeeze": lambda x: x[:, :1].squeeze(1).squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(-2).squeeze((0, 2)),
    "expand": lambda x: x[:, :1].expand(2, 5, 4).expand(3, 2, 5, 4),
    "repeat": lambda x: x.repeat(2, 1, 3, 2),
    "flip": lambda x: x.flip((0, -1)),
    "roll": lambda x: x.roll((1, -2), (0, 2)) + x.roll(5),
    "rot90": lambda x: x.rot90(1, (1, 2)),
    "tril": lambda x: x.tril(-1) + 2 * x.triu(1),
    "diag_embed": lambda x: x.diag_embed(1, 0, -1),
    "diagonal": lambda x: x.diagonal(-1, 2, 0),
    "select": lambda x: x.select(-1, -2) * x[:, 1, 1:2],
    "slice": lambda x: x[:, 1:, ::2] * x[:, -2:, 1:-1],
    "empty_slice": lambda x: x[:, 3:],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "unfold": lambda x: x.unfold(-1, 2, 1),
    "as_strided": lambda x: x.as_strided((3, 3), (2, 1), 1),
    "split": lambda x: x.split(3, -1)[0] * 2,
    "split_with_sizes": lambda x: x.split((1, 2), 1)[1],
    "chunk": lambda x: x.chunk(2, 2)[0] * x.chunk(2, 2)[1],
    "unbind": lambda x: x.unbind(1)[0] * x.unbind(-1)[1][0, 0],
    "cat": lambda x: torch.cat([x, x[:, :1], torch.sin(x)], 1),
    "stack": lambda x: torch.stack([x, x * x], -2),
    "block_diag": lambda x: torch.block_diag(x[0], x[1, :, 0], x[0, 0, 0]),
    "constant_pad": lambda x: F.pad(x, (1, 2, -1, 3), value=2.0),
    "reflection_pad": lambda x: F.pad(x, (1, 2), mode="reflect"),
    "replication_pad": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "circular_pad": lambda x: F.pad(x, (1, 2), mode="circular"),
    "clone": lambda x: x.clone().contiguous(),
    "to": lambda x: x.to(torch.float32).to(torch.double),
    "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[1, 1], indexing="ij")[0] * 2,
    "channel_shuffle": lambda x: F.channel_shuffle(x.reshape(1, 6, 2, 2), 3),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :1] * 2, 1, 1, 2),
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x[0], x[1, :, 0].exp()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_changes_a_shape_has_the_gradients_of_autograd(name):
    x = torch.randn(2, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    check(CASES[name], x, rtol=1e-5 if name == "to" else 1e-10)
    if name not in ("expand", "to"):  # not linear any more, so that the second derivative is not zero
        check(lambda x: CASES[name](x * x), x)


def test_cat_of_empty():
    check(lambda x, z: torch.cat([x, z]), torch.ones(2, 3, dtype=torch.double), torch.ones(0, dtype=torch.double))


def test_writes_to_views():
    def f(x):
        y = x.clone()
        y[0].mul_(2)
        y[:, 1] = x[:, 0] * x[:, 1]
        y.t().diagonal().zero_()
        return y * y

    check(f, torch.randn(3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)))


def test_as_strided_scatter():
    """Against the same write by index; autograd's own gradient of as_strided_scatter is wrong (PyTorch 2.13)."""
    x, w = torch.linspace(0, 1, 5, dtype=torch.double), torch.arange(1.0, 6.0, dtype=torch.double)
    places = torch.tensor([1, 3])
    ours = mg.capture(lambda x: (torch.as_strided_scatter(x, x[:2].sin(), (2,), (2,), 1) * w).sum(), x)
    live = x.clone().requires_grad_()
    (live.index_put((places,), live[:2].sin()) * w).sum().backward()
    torch.testing.assert_close(mg.differentiate(ours)(x)[1]["x"], live.grad)


def test_as_strided_of_complex_numbers_that_overlap_in_memory():
    x = torch.randn(6, dtype=torch.complex128).as_strided((3, 3), (1, 1))
    leaf = x.detach().requires_grad_()
    leaf.as_strided((2, 2), (1, 1)).abs().square().sum().backward()
    ours = mg.grad(lambda x: x.as_strided((2, 2), (1, 1)).abs().square().sum())(x)
    torch.testing.assert_close(ours, leaf.grad)

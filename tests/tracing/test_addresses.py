"""Programs that ask where a tensor lies in memory: no graph can know."""

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)

ASKING = {
    "data_ptr": lambda h, x: h.data_ptr(),
    "of an input": lambda h, x: x.data_ptr(),
    "compared": lambda h, x: h.data_ptr() == x.data_ptr(),
    "untyped_storage": lambda h, x: h.untyped_storage().data_ptr(),
    "storage": lambda h, x: h.storage().data_ptr(),
    "is_set_to": lambda h, x: h.is_set_to(h),
}


class Asks(nn.Module):
    def __init__(self, ask):
        super().__init__()
        self.linear = nn.Linear(3, 1).double()
        self.ask = ask

    def forward(self, x):
        h = self.linear(x)
        return h * (1 + self.ask(h, x) % 7)


@pytest.mark.parametrize("name", ASKING)
def test_an_address_is_refused_by_name(name):
    """A capture would read 0 for each, or that of a copy: ``h.data_ptr() == x.data_ptr()`` would be True for ever."""
    model = Asks(ASKING[name])
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), check="never")
    for call in (
        lambda: mg.grad(lambda x: model(x).sum())(X),
        lambda: mg.grad(lambda x: model(x * x.sum().item()).sum())(X),  # captured on a copy
        lambda: mg.wrap(Asks(ASKING[name]), check="never")(X),
        lambda: step(X, X[:, :1]),
    ):
        with pytest.raises(mg.CaptureError, match="where a tensor lies in memory"):
            call()


def test_where_a_tensor_lies_may_be_asked_beside_a_capture():
    """And of storages, what is the same at each run."""

    def f(x):
        beside.append(Y.untyped_storage().nbytes())
        return (x * x.untyped_storage().nbytes()).sum()

    beside = []
    assert torch.equal(mg.grad(f)(X), torch.full_like(X, 24.0)) and beside[0] == 24
    assert X.untyped_storage().data_ptr() == X.data_ptr()


@pytest.mark.parametrize("way", ["wrap", "step"])
def test_where_a_view_begins_is_refused_and_the_start_is_not(way):
    """What stands for a tensor in a capture begins at 0; a graph made for a batch that does serves no other."""
    model = Asks(lambda h, x: x.storage_offset() + h.storage_offset())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, check="never") if way == "step" else mg.wrap(model)
    rows = X.repeat(3, 1)
    expected = nn.functional.mse_loss(model.linear(rows[:1]), rows[:1, :1])
    loss = step(rows[:1], rows[:1, :1]) if way == "step" else nn.functional.mse_loss(step(rows[:1]), rows[:1, :1])
    torch.testing.assert_close(loss, expected.detach() if way == "step" else expected)
    with pytest.raises(mg.CaptureError, match="storage_offset"):
        step(rows[1:2], rows[:1, :1]) if way == "step" else step(rows[1:2])


def test_a_parameter_that_is_a_view_is_not_read_by_offset():
    model = nn.Linear(3, 2)
    model.weight.data = torch.arange(10.0)[2:8].view(2, 3)
    with pytest.raises(mg.CaptureError, match="as_strided"):
        mg.capture(lambda x: (x @ model.weight.T).sum() * model.weight.as_strided((2,), (1,), 4).sum(), X.float())


Y = X.clone()


def test_a_derivative_of_a_derivative_looks_at_values_and_writes():
    """A graph that writes to a buffer asks where its arguments lie, inside the capture of the program that runs it."""
    norm = nn.BatchNorm1d(3, momentum=None).double()  # which reads how many batches there were
    batch = torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.4, -0.6], [0.2, 0.9, 1.4]], dtype=torch.float64)
    ours = mg.grad(lambda x: (mg.grad(lambda y: (norm(y) ** 3).sum())(x) ** 2).sum())(batch)
    x = batch.clone().requires_grad_()
    (inner,) = torch.autograd.grad((norm(x) ** 3).sum(), x, create_graph=True)
    torch.testing.assert_close(ours, *torch.autograd.grad((inner**2).sum(), x))

"""train_model: against the same loop in plain PyTorch, its options, its errors."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from memograd.errors import DataError, MemogradError
from memograd.train import checkpoint
from memograd.train.loop import train_model


def data(n=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, generator=g), torch.randint(0, 2, (n,), generator=g))


def network(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(dropout), nn.Linear(5, 2))


def loader(seed=3):
    return DataLoader(data(), 8, shuffle=True, generator=torch.Generator().manual_seed(seed))  # last batch: 4


def run(model, epochs=2, **options):
    options.setdefault("backend", "eager")
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    return train_model(model, nn.CrossEntropyLoss(), optimizer, options.pop("loader", loader()), epochs, **options)


def test_same_as_plain_pytorch():
    ours, plain = network().double(), network().double()
    batches = [(x.double(), y) for x, y in loader()]
    run(ours, 3, loader=batches)
    optimizer = optim.Adam(plain.parameters(), lr=0.01)
    for _ in range(3):
        for x, y in batches:
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(plain(x), y).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_history_validation_and_callback():
    seen = []
    history = run(network(0.5), validation=DataLoader(data(10, 5), 4), callback=seen.append)
    assert history["epoch"] == [1, 2] and len(history) == 2 and list(history) == seen
    assert set(history.keys()) == {"epoch", "loss", "seconds", "validation_loss", "validation_accuracy"}
    assert 0 <= history[-1]["validation_accuracy"] <= 1 and "loss" in history
    with pytest.raises(KeyError, match="no column"):
        history["nonsense"]


def test_modes_are_left_as_found():
    model = network(0.5)
    model.eval()
    run(model, validation=loader())
    assert not any(m.training for m in model.modules())
    model.train()
    model[2].eval()  # a frozen part stays frozen
    run(model, validation=loader())
    assert model.training and not model[2].training


@pytest.mark.parametrize(("after", "dropout"), [(1, 0.0), (2, 0.5)])
def test_resume_is_exact(tmp_path, after, dropout):
    whole, first, second = network(dropout), network(dropout), network(dropout)
    torch.manual_seed(7)
    run(whole, 4)
    torch.manual_seed(7)
    run(first, after, checkpoint=tmp_path)
    torch.manual_seed(99)
    history = run(second, 4, checkpoint=tmp_path, resume=True, loader=loader(seed=1234))
    assert history["epoch"] == [1, 2, 3, 4]
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options",
    [{"backend": "fast"}, {"check": "often"}, {"clip_grad_norm": -1.0}, {"memory_budget": "much"}, {"accumulate": 0}],
    ids=str,
)
def test_options_without_sense_are_refused_before_a_resumed_run_has_its_weights(tmp_path, options):
    run(network(), 1, checkpoint=tmp_path)
    other = network()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(MemogradError):
        run(other, 2, checkpoint=tmp_path, resume=True, **options)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)


def test_a_state_that_does_not_fit_is_refused_before_the_weights_are_put_in_place(tmp_path):
    run(network(), 1, checkpoint=tmp_path)
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    saved["step"]["gathered"] = ["another parameter"]
    checkpoint.save(tmp_path, saved)
    other = network()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(DataError, match="another parameter"):
        run(other, 2, checkpoint=tmp_path, resume=True)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)


def test_a_model_stays_where_it_is_when_something_else_is_refused():
    class Moved(nn.Linear):
        def to(self, *args, **kwargs):
            raise AssertionError("moved")

    model = Moved(3, 2)
    with pytest.raises(MemogradError, match="optimizer"):
        train_model(model, nn.CrossEntropyLoss(), object(), loader(), device="cpu")  # pyright: ignore[reportArgumentType]


def test_nan_data_stops_before_the_weights_change(tmp_path):
    model = network()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(DataError, match="epoch 1, batch 1: the data contain NaN"):
        run(model, loader=[(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_diverging_loss_names_epoch_and_batch(tmp_path):
    batches = [(torch.ones(2, 3), torch.tensor([0, 1])), (torch.full((2, 3), torch.inf), torch.tensor([0, 1]))]
    with pytest.raises(DataError, match="epoch 1, batch 2: lower the learning rate"):
        run(network(), loader=batches)


BAD = {
    "empty": ([], "no batches"),
    "no target": ([torch.ones(2, 3)], r"must yield \(inputs, target\)"),
    "shape": ([(torch.ones(2, 4), torch.tensor([0, 1]))], "cannot be multiplied.*module 'model.0'"),
    "integers": ([(torch.ones(2, 3, dtype=torch.long), torch.tensor([0, 1]))], "dtype"),
    "class out of range": ([(torch.ones(2, 3), torch.tensor([0, 9]))], "out of bounds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches(name):
    batches, message = BAD[name]
    with pytest.raises(MemogradError, match=message):
        run(network(), loader=batches)


def test_other_bad_input():
    with pytest.raises(DataError, match="iterator"):
        run(network(), loader=iter([(torch.ones(2, 3), torch.tensor([0, 1]))]))
    with pytest.raises(DataError, match="at least 1"):
        run(network(), 0)
    unrelated = optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(MemogradError, match="no parameters"):
        train_model(nn.ReLU(), nn.CrossEntropyLoss(), unrelated, loader())
    model = network()
    with pytest.raises(MemogradError, match="loss must be one"):
        train_model(model, nn.CrossEntropyLoss(reduction="none"), optim.SGD(model.parameters(), 0.1), loader())


# -- what scripts do besides the update ------------------------------------------------------------------------------

REFINED = {"clip_grad_norm": 0.1, "accumulate": 2, "ema_decay": 0.8}


def test_clipping_accumulation_and_averages_are_those_of_the_plain_loop():
    """Three batches an epoch: the last is a group of its own."""
    ours, plain = network(), network()
    batches = list(loader())
    history = run(ours, 3, loader=batches, validation=batches, **REFINED)
    optimizer = optim.Adam(plain.parameters(), lr=0.01)
    average = optim.swa_utils.AveragedModel(plain, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.8))
    for _ in range(3):
        for number, (x, y) in enumerate(batches, 1):
            (nn.CrossEntropyLoss()(plain(x), y) / 2).backward()
            if number in (2, 3):
                nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(plain)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(history.ema, dict(average.module.state_dict()), rtol=1e-5, atol=1e-6)
    total = sum(nn.CrossEntropyLoss(reduction="sum")(average(x), y).item() for x, y in batches)
    assert history[-1]["ema_validation_loss"] == pytest.approx(total / 20, rel=1e-4)
    assert history[-1]["ema_validation_loss"] != history[-1]["validation_loss"]


@pytest.mark.parametrize("budget", [None, "100%"])
def test_resume_is_exact_with_averages_too(tmp_path, budget):
    whole, first, second = network(0.5), network(0.5), network(0.5)
    torch.manual_seed(7)
    histories = [run(whole, 3, memory_budget=budget, **REFINED)]
    torch.manual_seed(7)
    run(first, 2, checkpoint=tmp_path, memory_budget=budget, **REFINED)
    torch.manual_seed(99)
    options = {"checkpoint": tmp_path, "resume": True, "loader": loader(seed=1234), "memory_budget": budget}
    histories.append(run(second, 3, **options, **REFINED))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(v, histories[1].ema[k]) for k, v in histories[0].ema.items())
    averaged = network()
    checkpoint.load_weights(tmp_path, averaged, checkpoint.AVERAGED)
    assert all(torch.equal(v, histories[0].ema[k]) for k, v in averaged.state_dict().items())


def test_autocast_is_that_of_validation_too():
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((self.training, out.dtype))
            return out

    torch.manual_seed(0)
    model = Looks(3, 2)
    run(model, 1, validation=loader(), autocast=torch.bfloat16, check="never")
    assert set(seen) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    with pytest.raises(TypeError, match="clip_norm"):
        run(model, 1, clip_norm=1.0)

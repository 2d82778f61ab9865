"""Whole models, untouched, in float64: the gradient of every parameter against torch.autograd."""

import copy

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd.recipes.models import SimpleCNN, SimpleNN, SimpleRNN

TOLERANCE = 1e-10


def agree(model, objective, *args, **kwargs):
    """Relative difference of each gradient, in units of the largest gradient where one is numerically zero."""
    joint = mg.differentiate(mg.capture(objective, *args, **kwargs))
    torch.manual_seed(1)
    _, ours = joint(*args, **kwargs)
    model.zero_grad()
    torch.manual_seed(1)
    out = objective(*args, **kwargs)
    getattr(out, "loss", out).backward()
    scale = max(p.grad.norm() for p in model.parameters() if p.grad is not None)
    for name, parameter in joint.parameters.items():
        mine = ours[name]
        if parameter.grad is None:
            assert mine is None
        else:
            assert (mine - parameter.grad).norm() <= TOLERANCE * max(parameter.grad.norm(), 1e-6 * scale), name


@pytest.mark.parametrize(
    ("make", "criterion", "x", "y"),
    [
        (SimpleNN, nn.BCELoss(), torch.rand(4, 2), torch.rand(4, 1).double()),
        (SimpleCNN, nn.CrossEntropyLoss(), torch.randn(3, 1, 28, 28), torch.tensor([1, 2, 3])),
        (SimpleRNN, nn.CrossEntropyLoss(), torch.randn(3, 1, 28, 28), torch.tensor([1, 2, 3])),
    ],
)
def test_the_lectures_networks(make, criterion, x, y):
    torch.manual_seed(0)
    model = make().double()
    agree(model, lambda x, y: criterion(model(x), y), x.double(), y)


def test_a_residual_network_with_everything():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(4, 8, 3, padding=1, groups=2),
                nn.BatchNorm2d(8),
                nn.SiLU(inplace=True),
                nn.Conv2d(8, 4, 3, padding=2, dilation=2),
                nn.GroupNorm(2, 4),
            )

        def forward(self, x):
            x = x + self.body(x)
            return nn.functional.dropout(x.relu_(), 0.2)

    model = nn.Sequential(Block(), nn.MaxPool2d(2), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = model.double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    y = torch.tensor([0, 2])
    agree(model, lambda x: nn.functional.cross_entropy(model(x), y, label_smoothing=0.1), x)


def test_a_transformer_of_pytorch():
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).double()
    x, y = torch.randn(2, 5, 16).double(), torch.randn(2, 4, 16).double()
    agree(model, lambda x, y: model(x, y).sin().sum(), x, y)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM"])
def test_small_transformers(name):
    transformers = pytest.importorskip("transformers")
    config = {
        "GPT2LMHeadModel": lambda: transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
        "LlamaForCausalLM": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=64),
        "BertForMaskedLM": lambda: transformers.BertConfig(**SMALL, intermediate_size=64),
    }[name]()
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).double().train()
    ids = torch.randint(0, 99, (2, 12))
    agree(model, model, input_ids=ids, labels=ids)


def test_xor_after_ten_thousand_epochs():
    torch.manual_seed(5)
    ours = SimpleNN().double()
    theirs = copy.deepcopy(ours)
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)
    mg.TrainStep(ours, nn.BCELoss(), optim.SGD(ours.parameters(), lr=0.1)).run(x, y, steps=10_000)
    optimizer = optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(10_000):
        optimizer.zero_grad()
        nn.BCELoss()(theirs(x), y).backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9)

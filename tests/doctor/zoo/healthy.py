"""Healthy models, about which the doctor has no error to find, and hardly a warning. Data: a factory for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from memograd.recipes.models import SimpleCNN, SimpleNN, SimpleRNN

Made = tuple[nn.Module, Callable[..., Any] | None, tuple[Any, ...]]
HEALTHY: dict[str, Callable[[], Made]] = {}


def healthy(make: Callable[[], Made]) -> Callable[[], Made]:
    HEALTHY[make.__name__] = make
    return make


def classes(n: int, batch: int) -> torch.Tensor:
    return torch.randint(n, (batch,))


# -- the lecture's three ----------------------------------------------------------------------------------------------


@healthy
def xor() -> Made:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return SimpleNN(), nn.BCELoss(), (x, torch.tensor([[0.0], [1.0], [1.0], [0.0]]))


@healthy
def cnn() -> Made:
    return SimpleCNN(), nn.CrossEntropyLoss(), (torch.randn(16, 1, 28, 28), classes(10, 16))


@healthy
def rnn() -> Made:
    return SimpleRNN(), nn.CrossEntropyLoss(), (torch.randn(16, 1, 28, 28), classes(10, 16))


# -- feed forward ------------------------------------------------------------------------------------------------------


@healthy
def mlp() -> Made:
    layers = (nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    return nn.Sequential(*layers), nn.CrossEntropyLoss(), (torch.randn(32, 20), classes(5, 32))


@healthy
def regression() -> Made:
    x = torch.randn(64, 6)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1)), nn.MSELoss(), (x, x.sum(1, keepdim=True))


@healthy
def binary_classifier() -> Made:
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
    return model, nn.BCEWithLogitsLoss(), (torch.randn(32, 6), torch.randint(2, (32, 1)).float())


class Residual(nn.Module):
    """As in ResNet, with the last normalisation of a branch at zero, as torchvision can start it."""

    def __init__(self, channels: int, zero: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


class ResNet(nn.Module):
    def __init__(self, blocks: int, zero: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*[Residual(16, zero) for _ in range(blocks)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@healthy
def resnet() -> Made:
    return ResNet(4), nn.CrossEntropyLoss(), (torch.randn(8, 3, 12, 12), classes(10, 8))


@healthy
def resnet_with_zero_branches() -> Made:
    return ResNet(3, zero=True), nn.CrossEntropyLoss(), (torch.randn(8, 3, 12, 12), classes(10, 8))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.leaky_relu(self.down1(x), 0.1)
        b = F.leaky_relu(self.middle(F.leaky_relu(self.down2(a), 0.1)), 0.1)
        return self.out(torch.cat([a, self.up(b)], 1))


@healthy
def unet() -> Made:
    return UNet(), nn.BCEWithLogitsLoss(), (torch.randn(4, 1, 16, 16), torch.randint(2, (4, 1, 16, 16)).float())


class Autoencoder(nn.Module):
    """A variational one: the encoder says mean and variance, a sample is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()
        return F.mse_loss(self.decoder(z), x, reduction="sum") / len(x) + kl


@healthy
def vae() -> Made:
    return Autoencoder(), None, (torch.randn(32, 20),)


class Discriminated(nn.Module):
    """The generator's step of a GAN: the discriminator is frozen by its optimizer, not by requires_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 12), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        scores = self.discriminator(self.generator(z))
        return F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))


@healthy
def gan_generator() -> Made:
    return Discriminated(), None, (torch.randn(32, 8),)


class Critic(nn.Module):
    """The discriminator's step: what the generator made is detached, as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.generator = nn.Linear(8, 12).requires_grad_(False)

    def forward(self, real: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        fake = self.generator(z).detach()
        return F.softplus(-self.score(real)).mean() + F.softplus(self.score(fake)).mean()


@healthy
def gan_discriminator() -> Made:
    return Critic(), None, (torch.randn(16, 12), torch.randn(16, 8))


# -- sequences ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(c, 2))
        mask = torch.full((t, t), -math.inf).triu(1)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(c / self.heads) + mask).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A small GPT with tied embeddings, initialised as GPT-2 is."""

    def __init__(self, words: int = 50, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList([Block(width, 4) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h)).transpose(1, 2)


@healthy
def transformer() -> Made:
    tokens = torch.randint(50, (4, 13))
    return Transformer(), nn.CrossEntropyLoss(), (tokens[:, :-1], tokens[:, 1:])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(30, 16), nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.words(tokens))[0]).transpose(1, 2)


@healthy
def lstm() -> Made:
    return Tagger(), nn.CrossEntropyLoss(), (torch.randint(30, (8, 10)), torch.randint(6, (8, 10)))


class Cells(nn.Module):
    """A GRU written as a loop over its cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 20), nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 20)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


@healthy
def gru_cells() -> Made:
    return Cells(), nn.CrossEntropyLoss(), (torch.randn(16, 8, 5), classes(3, 16))


class Encoder(nn.Module):
    """PyTorch's own layers, with a mask for padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
        h = self.encoder(x, src_key_padding_mask=padded)
        return self.head(h.mean(1))


@healthy
def transformer_encoder() -> Made:
    padded = torch.zeros(8, 6, dtype=torch.bool)
    padded[:, 4:] = True
    return Encoder(), nn.CrossEntropyLoss(), (torch.randn(8, 6, 16), padded, classes(4, 8))


# -- what looks like a fault and is none -------------------------------------------------------------------------------


class Adapter(nn.Module):
    """LoRA: a frozen layer, and a product of two small ones of which the second starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(16, 16).requires_grad_(False)
        self.a, self.b = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@healthy
def lora() -> Made:
    return Adapter(), nn.MSELoss(), (torch.randn(16, 16), torch.randn(16, 16))


class Quantised(nn.Module):
    """A straight-through estimator: the value is rounded, the gradient passes."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.encode(x)
        z = z + (z.round() - z).detach()
        return F.mse_loss(self.decode(z), x)


@healthy
def straight_through() -> Made:
    return Quantised(), None, (torch.randn(32, 12),)


class Student(nn.Module):
    """Distillation from a teacher that runs under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.teacher = nn.Linear(10, 4), nn.Linear(10, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = F.softmax(self.teacher(x), 1)
        return F.kl_div(F.log_softmax(self.net(x), 1), target, reduction="batchmean")


@healthy
def distillation() -> Made:
    return Student(), None, (torch.randn(16, 10),)


class Contrastive(nn.Module):
    """Every sample against every other, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        p, q = F.normalize(self.encoder(a), dim=1), F.normalize(self.encoder(b), dim=1)
        return F.cross_entropy(p @ q.T / 0.1, torch.arange(len(a)))


@healthy
def contrastive() -> Made:
    x = torch.randn(16, 10)
    return Contrastive(), None, (x + 0.1 * torch.randn(16, 10), x)


class Masked(nn.Module):
    """NaN behind torch.where, whose gradient is made harmless in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(x)
        safe = torch.where(y > 0, y, torch.ones_like(y))
        return torch.where(y > 0, safe.log(), torch.full_like(y, math.nan)).nan_to_num(0.0).square().mean()


@healthy
def nan_behind_where() -> Made:
    return Masked(), None, (torch.randn(16, 6),)


class Lowered(nn.Module):
    """Mixed precision: the layers run under autocast, the loss outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.net(x)
        return y.float()


@healthy
def mixed_precision() -> Made:
    return Lowered(), nn.CrossEntropyLoss(), (torch.randn(32, 20), classes(5, 32))


class Checkpointed(nn.Module):
    """Activations that are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(nn.Linear(8, 32), nn.GELU()), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.utils.checkpoint.checkpoint(self.one, x, use_reentrant=False))


@healthy
def checkpointed() -> Made:
    return Checkpointed(), nn.CrossEntropyLoss(), (torch.randn(16, 8), classes(3, 16))


class Differences(nn.Module):
    """Differences of two of its results: the gradient of its last bias is 0, as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        return self.net(made).mean() - self.net(real).mean()


@healthy
def wasserstein_critic() -> Made:
    return Differences(), None, (torch.randn(16, 6) + 1, torch.randn(16, 6))


@healthy
def clipped_policy() -> Made:
    """Proximal policy optimization: some samples are clipped, some have no advantage, and get no gradient."""
    advantage = torch.randn(24) * (torch.arange(24) > 6)

    def loss(scores: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        ratio = (scores.log_softmax(-1).gather(1, action[:, None])[:, 0] + math.log(3)).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    return model, loss, (torch.randn(24, 4), classes(3, 24))

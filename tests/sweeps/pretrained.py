"""Pretrained networks of packages that carry their weights, fine-tuned by ``mg.wrap`` and ``mg.TrainStep``.

python tests/sweeps/pretrained.py [NAME ...]   prints the loss of each step in plain PyTorch, wrapped and by steps;
fails if two curves part

In float32, as the weights come, with dropout, AdamW and clipping by norm. No network is asked for anything.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn, optim

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps.foreign import seed

import memograd as mg

Tensor = torch.Tensor
Batch = tuple[Tensor, ...]
WAYS = ("PyTorch", "wrap", "step")
RATE, NORM = 2e-4, 1.0


@dataclass
class Tuned:
    """A network whose ``forward`` returns the loss of a batch, and the batch of step ``k``."""

    module: nn.Module
    batch: Callable[[int], Batch]


class Landmarks(nn.Module):
    """MTCNN's third network, tuned to say where a bright square lies in a picture of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.network = import_module("facenet_pytorch").ONet()

    def forward(self, pictures: Tensor, boxes: Tensor, seen: Tensor) -> Tensor:
        box, _, probability = self.network(pictures)
        squares = nn.functional.mse_loss(box[seen], boxes[seen])  # as many rows as there are squares: a look
        return squares + nn.functional.nll_loss(probability.clamp_min(1e-6).log(), seen.long())


def landmarks() -> Tuned:
    def batch(k: int) -> Batch:
        generator = torch.Generator().manual_seed(k)
        pictures = 0.1 * torch.randn(8, 3, 48, 48, generator=generator)
        corners = torch.randint(4, 20, (8, 2), generator=generator)
        for picture, (top, left) in zip(pictures[:5], corners.tolist(), strict=False):
            picture[:, top : top + 20, left : left + 20] += 1
        return pictures, torch.cat([corners, corners + 20], 1) / 48, torch.arange(8) < 5

    return Tuned(Landmarks(), batch)


# Heavy and light chains of trastuzumab and of adalimumab, as published.
CHAINS = [
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
]


class Masked(nn.Module):
    """A BERT of antibodies, asked what stood at masked places."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
        return self.network(input_ids=ids, attention_mask=attention, labels=labels).loss


def antibodies() -> Tuned:
    transformers = import_module("transformers")
    folder = Path(str(import_module("antiberty").__file__)).parent / "trained_models"
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    length = max(map(len, CHAINS)) + 2
    rows = [["[CLS]", *chain, "[SEP]", *["[PAD]"] * (length - 2 - len(chain))] for chain in CHAINS]
    tokens = torch.tensor([[words.index(word) for word in row] for row in rows])

    def batch(k: int) -> Batch:
        generator = torch.Generator().manual_seed(k)
        masked = (torch.rand(tokens.shape, generator=generator) < 0.15) & (tokens >= words.index("A"))
        ids = tokens.masked_fill(masked, words.index("[MASK]"))
        return ids, tokens.ne(words.index("[PAD]")).long(), tokens.masked_fill(~masked, -100)

    # The package's own class does not load beside a recent transformers; its weights are those of a BERT.
    checkpoint = folder / "AntiBERTy_md_smooth"
    network = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(checkpoint))
    weights = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True)
    missing_keys = network.load_state_dict(weights, strict=False).missing_keys
    assert not missing_keys, missing_keys
    return Tuned(Masked(network.train()), batch)


# What to install, what one imports, and how the network is built.
NETWORKS = {
    "faces": ("facenet-pytorch", "facenet_pytorch", landmarks),
    "antibodies": ("antiberty==0.1.3", "antiberty", antibodies),
}


def missing(name: str) -> str | None:
    """How to install what ``name`` needs, if it is not there."""
    package, imported, _ = NETWORKS[name]
    return None if find_spec(imported) else f"pip install --no-deps {package}"


def curve(name: str, way: str, steps: int) -> list[float]:
    """The loss at each step."""
    seed(0)
    tuned = NETWORKS[name][2]()
    module, losses = tuned.module, []
    optimizer = optim.AdamW(module.parameters(), lr=RATE)
    if way == "step":
        step = mg.TrainStep(module, None, optimizer, backend="eager", clip_grad_norm=NORM)
        for k in range(steps):
            seed(k)
            losses.append(step(*tuned.batch(k)).item())
        return losses
    if way == "wrap":
        mg.wrap(module, backend="eager")
    for k in range(steps):
        seed(k)
        optimizer.zero_grad()
        loss = module(*tuned.batch(k))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NETWORKS, []], metavar="NAME")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parted = False
    for name in options.names or NETWORKS:
        if hint := missing(name):
            print(f"{name} is not installed and left out: {hint}")
            continue
        curves = {way: curve(name, way, options.steps) for way in WAYS}
        for way, losses in curves.items():
            print(f"{name:12}{way:9}" + " ".join(f"{loss:.5f}" for loss in losses), flush=True)
        difference = max(abs(a - b) for way in WAYS[1:] for a, b in zip(curves["PyTorch"], curves[way], strict=True))
        print(f"{name:12}largest difference {difference:.1e}")
        parted |= not difference < 1e-4
    return 1 if parted else 0


if __name__ == "__main__":
    sys.exit(main())

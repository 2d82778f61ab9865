"""Sick models whose gradients are missing, vanish, explode or cancel. Own code; behind each the public report of the
fault. Data: a factory, and the true cause: the kind of finding, and the operator or parameter that is to blame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Options = dict[str, Any]
SICK: dict[str, Sick] = {}


@dataclass(frozen=True)
class Sick:
    """Attributes:
    make: returns the arguments of ``mg.diagnose``: ``model``, ``args``, and options by name.
    kind: of the finding that names the cause.
    blame: what the finding must name: an operator, a parameter, a module or a line of the program.
    """

    make: Callable[[], Options]
    kind: str
    blame: str


def sick(kind: str, blame: str) -> Callable[[Callable[[], Options]], Callable[[], Options]]:
    def enter(make: Callable[[], Options]) -> Callable[[], Options]:
        SICK[make.__name__] = Sick(make, kind, blame)
        return make

    return enter


class Written(nn.Module):
    """Two layers, and what a forward pass makes of them."""

    def __init__(self, forward: Callable[..., Any], hidden: int = 16, out: int = 3) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(8, hidden), nn.Linear(hidden, out)
        self.written = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.written(self, x)


def classifier(forward: Callable[..., Any], **options: Any) -> Options:
    model = Written(forward, **options)
    return {"model": model, "args": (torch.randn(32, 8), torch.randint(3, (32,))), "loss": nn.CrossEntropyLoss()}


def layered(*layers: nn.Module, out: int = 3, **options: Any) -> Options:
    batch = torch.randn(32, 8), torch.randint(out, (32,))
    return {"model": nn.Sequential(*layers), "args": batch, "loss": nn.CrossEntropyLoss(), **options}


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


# -- no gradient -------------------------------------------------------------------------------------------------------


# github.com/NVlabs/DG-Net/issues/59: f = f.detach() in the middle of an encoder
@sick("no gradient", "encoder.weight")
def detached() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(x).relu().detach()))


# github.com/rll-research/cic/issues/5: observations are encoded under no_grad, the encoder never learns
@sick("no gradient", "encoder.weight")
def under_no_grad() -> Options:
    def forward(self: Written, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            h = self.encoder(x).relu()
        return self.head(h)

    return classifier(forward)


# github.com/pytorch/pytorch/issues/1339: the argmax of one network is fed to another
@sick("no gradient", "argmax")
def argmax() -> Options:
    return classifier(lambda self, x: self.head(F.one_hot(self.encoder(x).argmax(1), 16).float()))


# github.com/wonbeomjang/mobile-hair-segmentation-pytorch/issues/3: a loss of class numbers
@sick("nothing to differentiate", "")
def loss_of_class_numbers() -> Options:
    made = classifier(lambda self, x: self.head(self.encoder(x).relu()))
    return made | {"loss": lambda y, t: F.mse_loss(y.argmax(1).float(), t.float())}


# github.com/pytorch/pytorch/issues/7462 and its like: `.data` in the middle of the program
@sick("no gradient", "encoder.weight")
def data() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(x).data.relu()))


# github.com/guevara/read-it-later/issues/5625 lists it: numbers by way of NumPy
@sick("no gradient", "encoder.weight")
def by_way_of_numpy() -> Options:
    return classifier(lambda self, x: self.head(torch.from_numpy(self.encoder(x).detach().numpy())))


# github.com/davidmascharka/tbd-nets/issues/8: a new tensor made of loss.item()
@sick("nothing to differentiate", "")
def tensor_of_a_number() -> Options:
    made = classifier(lambda self, x: self.head(self.encoder(x).relu()))
    return made | {"loss": lambda y, t: torch.tensor(F.cross_entropy(y, t).item(), requires_grad=True)}


# github.com/microsoft/nni/issues/4521: layers are rounded to whole numbers, or counted
@sick("no gradient", "round")
def rounded() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(x).round()))


# github.com/zjunlp/HVPNeT/issues/5: parameters that are forgotten on the way
@sick("unused parameter", "encoder.weight")
def unused() -> Options:
    return classifier(lambda self, x: self.head(torch.cat([x, x], 1)))


# forums are full of fine-tuning where the new layer is frozen with the rest; github.com/facebookresearch/mmf/issues/104
@sick("nothing to differentiate", "frozen")
def all_frozen() -> Options:
    made = layered(*mlp())
    made["model"].requires_grad_(False)
    return made


# -- nobody trains it --------------------------------------------------------------------------------------------------


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 8) for _ in range(2)]
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


# github.com/pytorch/pytorch/issues/666 and 59925: layers in a plain list
@sick("not a parameter", "layer")
def layers_in_a_list() -> Options:
    return layered() | {"model": Listed()}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(8, requires_grad=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x * self.scale)


# github.com/automan000/Convolutional_LSTM_PyTorch/issues/17: weights that are tensors, not nn.Parameters
@sick("not a parameter", "self.scale")
def tensor_instead_of_parameter() -> Options:
    return layered() | {"model": Plain()}


# discuss.pytorch.org and github.com/pytorch/examples/issues/277: a parameter made in forward
@sick("made anew in forward", "nn.Parameter")
def parameter_made_in_forward() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(x).relu() * nn.Parameter(torch.ones(16))))


# github.com/meta-pytorch/opacus/issues/432: layers are replaced after the optimizer was made
@sick("optimizer holds others", "0.weight")
def layer_replaced_after_the_optimizer() -> Options:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    model[0] = nn.Linear(8, 32)
    return layered(*model, optimizer=optimizer)


# github.com/zjunlp/HVPNeT/issues/5: one layer is missing in the optimizer's groups
@sick("not in the optimizer", "2.weight")
def layer_missing_in_the_optimizer() -> Options:
    model = mlp()
    return layered(*model, optimizer=torch.optim.Adam(model[0].parameters()))


def stepping(order: str) -> Options:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: torch.Tensor, t: torch.Tensor) -> None:
        loss = F.cross_entropy(model(x), t)
        for what in order.split():
            {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}[what]()

    return layered() | {"model": model, "optimizer": optimizer, "step": step}


# github.com/yastrebksv/TennisCourtDetector/issues/7: no zero_grad in the trainer
@sick("forgotten zero_grad", "zero_grad")
def forgotten_zero_grad() -> Options:
    return stepping("backward step")


# github.com/lucidrains/byol-pytorch/issues/93: gradients are cleared right before the step
@sick("no gradients at the step", "backward")
def cleared_before_the_step() -> Options:
    return stepping("backward zero step")


# -- zero everywhere ---------------------------------------------------------------------------------------------------


# github.com/jvargasmu/population_estimation/issues/68: the first solution predicts only zeros, no gradients emerge
@sick("dead units", "relu")
def dead_by_bias() -> Options:
    model = mlp()
    nn.init.constant_(model[0].bias, -50.0)
    return layered(*model)


# github.com/autonomousvision/transfuser/issues/146: 45 to 73 % of the units of a block are dead
@sick("dead units", "relu")
def many_dead() -> Options:
    model = mlp()
    with torch.no_grad():
        model[0].bias[:20] -= 20
    return layered(*model)


# github.com/HazyResearch/HypHC/issues/7: a scale outside of its clamp
@sick("clamped everywhere", "clamp")
def clamped() -> Options:
    model = Written(lambda self, x: self.head(self.encoder(x).relu()) * self.scale.clamp(0.01, 0.999))
    model.scale = nn.Parameter(torch.tensor([1e-3]))
    return classifier(lambda self, x: x) | {"model": model}


# github.com/pytorch/pytorch/issues/31396 and forums: softmax over one output
@sick("softmax over one class", "_log_softmax")
def one_class() -> Options:
    return layered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), out=1)


# github.com/nndl/nndl-discussion/issues/14: everything starts at zero
@sick("zero initialisation", "2.weight")
def all_zero() -> Options:
    model = mlp()
    for p in model.parameters():
        nn.init.zeros_(p)
    return layered(*model)


# github.com/yz93/LAVT-RIS/issues/25: both layers of a gate start at zero
@sick("zero initialisation", "weight")
def gate_of_zeros() -> Options:
    model = Written(lambda self, x: self.head(self.encoder(x)) * self.gate(self.encoder(x)))
    model.gate = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    for p in model.gate.parameters():
        nn.init.zeros_(p)
    return classifier(lambda self, x: x) | {"model": model}


# github.com/nndl/nndl-discussion/issues/14: the same constant for all weights
@sick("all units the same", "0.weight")
def all_the_same() -> Options:
    model = mlp()
    for p in model.parameters():
        nn.init.constant_(p, 0.05)
    return layered(*model)


# -- small and large ---------------------------------------------------------------------------------------------------


# github.com/alexeygrigorev/data-science-interviews/pull/84 and many others: sigmoids in a deep network
@sick("vanishing gradient", "sigmoid")
def deep_sigmoids() -> Options:
    return layered(*[m for _ in range(12) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 3))


class Loop(nn.Module):
    """A plain recurrent network over a long sequence."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(4, 16, nonlinearity="relu" if gain > 1 else "tanh"), nn.Linear(16, 3)
        nn.init.orthogonal_(self.cell.weight_hh, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(len(x), 16)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


# Pascanu, Mikolov & Bengio 2013; github.com/zackchase/mxnet-the-straight-dope/pull/88
@sick("vanishing gradient", "mm")
def long_recurrence_forgets() -> Options:
    return {
        "model": Loop(0.5),
        "args": (torch.randn(16, 40, 4), torch.randint(3, (16,))),
        "loss": nn.CrossEntropyLoss(),
    }


# the same sources: a recurrence that grows
@sick("exploding gradient", "mm")
def long_recurrence_explodes() -> Options:
    return {"model": Loop(3.0), "args": (torch.rand(16, 20, 4), torch.randint(3, (16,))), "loss": nn.CrossEntropyLoss()}


# github.com/dsgiitr/d2l-pytorch/pull/11: weights of torch.randn, taken to the power of the depth
@sick("exploding gradient", "mm")
def deep_with_large_weights() -> Options:
    model = nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(32, 32), nn.ReLU())], nn.Linear(32, 3))
    for p in model.parameters():
        nn.init.normal_(p)
    return layered() | {"model": nn.Sequential(nn.Linear(8, 32), *model)}


# the same at two layers, where nothing explodes yet
@sick("weights too large", "0.weight")
def large_weights() -> Options:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    nn.init.normal_(model[0].weight)
    return layered(*model) | {"args": (torch.randn(32, 64), torch.randint(3, (32,)))}


# github.com/ssui-liu/learnable-embed-sizes-for-RecSys/issues/4: thresholds at sigmoid(-150)
@sick("saturation", "sigmoid")
def saturated_sigmoid() -> Options:
    model = Written(lambda self, x: self.head(self.encoder(x) * self.threshold.sigmoid()))
    model.threshold = nn.Parameter(torch.full((16,), -15.0))
    return classifier(lambda self, x: x) | {"model": model}


# github.com/datawhalechina/hello-agents/pull/840: scores that nobody divides by sqrt(d)
@sick("saturation", "_softmax")
def unscaled_attention() -> Options:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.head = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 3)
            for layer in (self.q, self.k):
                nn.init.orthogonal_(layer.weight, 2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
            return self.head((weights @ x).mean(1))

    return layered() | {"model": Attention(), "args": (torch.randn(8, 6, 256), torch.randint(3, (8,)))}


# github.com/kvfrans/generative-adversial/issues/1 and github.com/keras-team/keras/issues/255: pixels from 0 to 255
@sick("inputs not scaled", "0")
def pixels() -> Options:
    return layered(*mlp()) | {"args": (torch.randint(256, (32, 8)).float(), torch.randint(3, (32,)))}


# github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/388: both players in one loss
@sick("gradients cancel", "discriminator")
def generator_and_discriminator_in_one_loss() -> Options:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            fake = self.discriminator(self.generator(z)).mean()
            return fake - self.discriminator(self.generator(z)).mean()  # of the critic, and of the generator

    return {"model": Both(), "args": (torch.randn(32, 8),)}


# -- the step ----------------------------------------------------------------------------------------------------------


# github.com/dzhang314 and forums: lr=10 for SGD; CS231n, ratio of updates to weights
@sick("updates too large", "SGD")
def learning_rate_too_large() -> Options:
    model = mlp()
    return layered(*model, optimizer=torch.optim.SGD(model.parameters(), lr=50.0))


@sick("updates too small", "SGD")
def learning_rate_too_small() -> Options:
    model = mlp()
    return layered(*model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-7))


# github.com/pytorch/pytorch/issues/120376, github.com/workofart/ml-by-hand/pull/85: bfloat16 rounds updates away
@sick("updates lost to rounding", "bfloat16")
def weights_in_bfloat16() -> Options:
    model = mlp().bfloat16()
    made = layered(*model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-6))
    return made | {"args": (made["args"][0].bfloat16(), made["args"][1])}


# github.com/engichang1467/Open-Rig3R/issues/35: float16 without a GradScaler
@sick("underflow", "float16")
def float16_without_scaling() -> Options:
    made = layered(*mlp().half())
    return made | {"args": (made["args"][0].half(), made["args"][1]), "loss": lambda y, t: 1e-6 * F.cross_entropy(y, t)}


# -- losses ------------------------------------------------------------------------------------------------------------


# github.com/Lightning-Universe/lightning-bolts/issues/654, github.com/ariecattan/SciCo/issues/2
@sick("softmax twice", "_log_softmax")
def softmax_twice() -> Options:
    return layered(*mlp(), nn.Softmax(dim=1))


# github.com/cvg/glue-factory/issues/89, github.com/avBuffer/UNet3plus_pth/issues/23
@sick("sigmoid twice", "binary_cross_entropy_with_logits")
def sigmoid_twice() -> Options:
    made = layered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid(), out=2)
    return made | {"loss": lambda y, t: F.binary_cross_entropy_with_logits(y[:, 0], t.float())}


# github.com/AnubhavGupta3377/Text-Classification-Models-Pytorch/issues/9, github.com/clvrai/ACGAN-PyTorch/pull/4
@sick("not a log-probability", "nll_loss")
def nll_of_probabilities() -> Options:
    return layered(*mlp(), nn.Softmax(dim=1), loss=nn.NLLLoss())


# github.com/MicrosoftDocs/pytorchfundamentals/pull/21, github.com/Lackel/DPN/issues/1
@sick("softmax over the batch", "_log_softmax")
def softmax_over_the_batch() -> Options:
    return layered(*mlp(), nn.LogSoftmax(dim=0), loss=nn.NLLLoss())


# github.com/pytorch/pytorch/issues/16045 and 19699
@sick("shapes broadcast", "mse_loss")
def shapes_broadcast() -> Options:
    return layered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)) | {
        "args": (torch.randn(32, 8), torch.randn(32)),
        "loss": nn.MSELoss(),
    }


# the same written by hand
@sick("shapes broadcast", "sub")
def shapes_broadcast_by_hand() -> Options:
    made = shapes_broadcast()
    return made | {"loss": lambda y, t: ((y - t) ** 2).mean()}


# github.com/BrainJS/brain.js/issues/98: the same answer whatever goes in; here the input is overwritten
@sick("inputs unused", "arg0")
def inputs_unused() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(torch.ones(32, 8))))


# github.com/cbovar/ConvNetSharp/issues/154: two patterns, one answer; here a normalisation over a single number
@sick("normalised away", "native_layer_norm")
def normalised_away() -> Options:
    def forward(self: Written, x: torch.Tensor) -> torch.Tensor:
        h = self.encoder(x).mean(1, keepdim=True)
        return self.head(F.layer_norm(h, (1,)).expand(-1, 16))

    return classifier(forward)


# github.com/guevara/read-it-later/issues/5625: the wrong activation behind the last layer
@sick("targets out of reach", "relu")
def targets_below_a_rectifier() -> Options:
    return layered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.ReLU()) | {
        "args": (torch.randn(32, 8), torch.randn(32, 1)),
        "loss": nn.MSELoss(),
    }


# the same list: data that nobody normalised, here prices
@sick("targets not scaled", "targets")
def prices() -> Options:
    return layered(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)) | {
        "args": (torch.randn(32, 8), 2e5 + 5e4 * torch.randn(32, 1)),
        "loss": nn.MSELoss(),
    }


# github.com/keras-team/keras/issues/255: whole numbers divided by 255 are all 0
@sick("inputs all the same", "0")
def images_of_zeros() -> Options:
    return layered(*mlp()) | {
        "args": (torch.randint(255, (32, 8)).div(256, rounding_mode="floor").float(), torch.arange(32) % 3)
    }


class Moved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.original = nn.Parameter(torch.ones(8))
        self.scale = self.original.to(torch.float64).to(torch.float32)  # as .to(device) does where there is one
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x * self.scale)


# github.com/pytorch/pytorch/issues/127760: nn.Parameter(...).to(device) is kept, which is no parameter
@sick("computed beforehand", "self.scale")
def parameter_moved_to_a_device() -> Options:
    return layered() | {"model": Moved()}


# no public report: a mask that is always empty
@sick("zero factor", "encoder.weight")
def empty_mask() -> Options:
    return classifier(lambda self, x: self.head(self.encoder(x).relu() * torch.zeros(16)))


# -- made anew, in the wrong mode, over the wrong dimension -----------------------------------------------------------


# github.com/meta-pytorch/opacus/issues/432, github.com/pytorch/pytorch/issues/14467: layers that no optimizer knows
@sick("made anew in forward", "nn.Linear(16, 3)(")
def layer_made_in_forward() -> Options:
    return classifier(lambda self, x: nn.Linear(16, 3)(self.encoder(x).relu()))


# datarekha.com/interview/deep-learning/debugging-model-not-learning: trained as an evaluation has left it
@sick("eval mode", "'1'")
def evaluated_and_not_trained() -> Options:
    options = layered(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    options["model"].eval()
    return options


# github.com/caogang/wgan-gp/issues/27: reduced over the wrong dimension
@sick("same output for all samples", "this mean is over the 32 samples")
def mean_over_the_batch() -> Options:
    def forward(self: Written, x: torch.Tensor) -> torch.Tensor:
        pooled = self.encoder(x).relu().mean(0, keepdim=True)
        return self.head(pooled).expand(len(x), -1)

    return classifier(forward)


# own: nn.Dropout(1.0), where the share to be kept was meant, as in older libraries
@sick("zero factor", "Dropout(p=1.0)")
def everything_dropped() -> Options:
    return layered(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(1.0), nn.Linear(16, 3))

"""Programs whose loss or gradients are NaN or infinite. Own code; in front of each the public report of the fault.

Data: a factory of (model, criterion, batches), and the true cause: the sort of fault, the operator (in the backward
pass the forward operator whose derivative it is), whether it is in the forward or the backward pass, and a piece of the
line that is to blame. The last of the batches is the one with which the step is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg

Tensor = torch.Tensor
Made = tuple[nn.Module, Any, Sequence[tuple[Tensor, ...]]]
SICK_NAN: dict[str, SickNan] = {}


@dataclass(frozen=True)
class SickNan:
    """See above; ``lr`` and ``halves`` (autocast) are of the training, ``fixed``: whether a fix can be tried."""

    make: Callable[[], Made]
    kind: str
    op: str
    phase: Literal["forward", "backward", "input"]
    line: str
    lr: float = 0.01
    fixed: bool = True


def sick(kind: str, op: str, phase: Any, line: str, **options: Any) -> Callable[[Callable[[], Made]], Any]:
    def enter(make: Callable[[], Made]) -> Callable[[], Made]:
        SICK_NAN[make.__name__] = SickNan(make, kind, op, phase, line, **options)
        return make

    return enter


class Net(nn.Module):
    """A small network with a middle of its own."""

    def __init__(self, middle: Callable[..., Tensor], inputs: int = 6, hidden: int = 8, out: int = 3) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, out)
        self.middle = middle

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.middle(self, x, *more)


def data(rows: int = 8, inputs: int = 6, out: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, inputs), torch.randint(out, (rows,))


def regression(rows: int = 8, inputs: int = 6, out: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, inputs), torch.randn(rows, out)


def silence() -> tuple[Tensor, Tensor]:
    """A batch in which one sample is padding: all zeros."""
    x, y = regression()
    x[3] = 0.0
    return x, y


def silent(model: Net) -> Net:
    """Without a bias, so that zeros stay zeros."""
    nn.init.zeros_(model.inner.bias)
    return model


# -- the edge of a domain ----------------------------------------------------------------------------------------------


# github.com/allenai/allennlp/issues/2797: -torch.log(softmax(logits)) with logits far apart
@sick("log at the edge of its domain", "log", "forward", "torch.log(p)")
def log_of_a_softmax() -> Made:
    def middle(self: Net, x: Tensor, target: Tensor) -> Tensor:
        p = torch.softmax(self.outer(self.inner(x)) * 1e4, -1)
        return -torch.log(p).gather(1, target[:, None]).mean()

    x, y = data()
    return Net(middle), None, [(x, y)]


# github.com/summerlvsong/Aggregation-Cross-Entropy/issues/2: torch.log of an accumulated score that is 0
@sick("log at the edge of its domain", "log", "forward", "torch.log(score)")
def log_of_an_empty_class() -> Made:
    def middle(self: Net, x: Tensor, seen: Tensor) -> Tensor:
        score = torch.relu(self.outer(torch.relu(self.inner(x)))) * seen
        return -torch.log(score).mean()

    return Net(middle), None, [(torch.randn(8, 6), torch.tensor([1.0, 0.0, 1.0]))]


# github.com/pytorch/pytorch/issues/1817: softmax(-log(-log(u))) with u exactly 0
@sick("log at the edge of its domain", "log", "forward", "-torch.log(u)")
def gumbel_noise_of_zero() -> Made:
    def middle(self: Net, x: Tensor, u: Tensor) -> Tensor:
        inner = -torch.log(u)
        z = self.outer(self.inner(x)) - torch.log(inner)
        return (torch.softmax(z, -1) * z).sum()

    u = torch.rand(8, 3) * 0.8 + 0.1
    u[2, 1] = 0.0
    return Net(middle), None, [(torch.randn(8, 6), u)]


# github.com/hwalsuklee/tensorflow-mnist-VAE/issues/4: x log y + (1 - x) log(1 - y) with a saturated sigmoid
@sick("log at the edge of its domain", "log", "forward", "torch.log(1 - y)")
def cross_entropy_by_hand() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        y = torch.sigmoid(self.outer(self.inner(x)) * 0 + 40.0 + self.outer.bias)
        return -(t * torch.log(y) + (1 - t) * torch.log(1 - y)).mean()

    return Net(middle), None, [(torch.randn(8, 6), torch.zeros(8, 3))]


# github.com/adambielski/siamese-triplet/issues/18: the square root of a distance between equal samples
@sick("sqrt at the edge of its domain", "sqrt", "backward", ".sqrt()")
def distance_of_equal_samples() -> Made:
    def middle(self: Net, x: Tensor, other: Tensor) -> Tensor:
        a, b = self.inner(x), self.inner(other)
        return (a - b).pow(2).sum(1).sqrt().mean()

    x = torch.randn(8, 6)
    other = torch.randn(8, 6)
    other[3] = x[3]
    return Net(middle), None, [(x, other)]


# discuss.pytorch.org and github.com/aqlaboratory/openfold/issues/50: RMSE of a prediction that is exactly right
@sick("sqrt at the edge of its domain", "sqrt", "backward", "torch.sqrt(F.mse_loss")
def root_mean_square_of_nothing() -> Made:
    def rmse(y: Tensor, t: Tensor) -> Tensor:
        return torch.sqrt(F.mse_loss(y, t))

    last = nn.Linear(4, 1)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), last)
    return model, rmse, [(torch.randn(8, 6), torch.zeros(8, 1))]


# github.com/asteroid-team/asteroid/pull/121: torch.pow with an exponent below 1, of a zero
@sick("pow at the edge of its domain", "pow", "backward", ".pow(0.3)")
def power_below_one() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x).square()
        return F.mse_loss(self.outer(h.pow(0.3)), t)

    return silent(Net(middle)), None, [silence()]


# github.com/papagina/RotationContinuity/issues/1: torch.acos of a cosine that rounding has made larger than 1
@sick("acos at the edge of its domain", "acos", "forward", "torch.acos(cosine)")
def angle_of_more_than_one() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = F.normalize(self.inner(x), dim=1)
        cosine = (h * h).sum(1) * (1 + 3e-7)
        return torch.acos(cosine).mean()

    return Net(middle), None, [regression()]


# github.com/msxiaojin/MDLCC/issues/4: the derivative of acos where the two directions are the same
@sick("acos at the edge of its domain", "acos", "backward", "torch.acos(cosine)")
def angle_of_equal_directions() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = F.normalize(self.inner(x)[:, :1], dim=1)
        cosine = (h * torch.sign(t[:, :1])).sum(1)
        return torch.acos(cosine).mean()

    return Net(middle), None, [regression()]


# github.com/papagina/RotationContinuity/issues/1: the squared angle of two rotations that are equal
@sick("acos at the edge of its domain", "acos", "backward", "torch.acos(")
def angle_of_no_rotation() -> Made:
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.Parameter(torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.acos(((self.r @ x).diagonal().sum() - 1) / 2) ** 2

    return Rotation(), None, [(torch.eye(3),)]


# github.com/ZJULearning/RMI/issues/12: the logarithm of the determinant of a matrix that has no inverse
@sick("singular matrix", "_linalg_slogdet", "forward", "torch.logdet(")
def determinant_of_a_singular_matrix() -> Made:
    class Covariance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.logdet(self.a @ self.a.T) - x.sum()

    return Covariance(), None, [(torch.randn(3),)]


# -- division ----------------------------------------------------------------------------------------------------------


# github.com/avalonstrel/GatedConvolution_pytorch/issues/27: (x - min) / (max - min) of an image of one colour
@sick("division by zero", "div", "forward", "(x - low) / (high - low)")
def normalised_image_of_one_colour() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        x = (x - low) / (high - low)
        return F.cross_entropy(self.outer(self.inner(x)), t)

    x, y = data()
    x[5] = 0.7
    return Net(middle), None, [(x, y)]


# github.com/KevinMusgrave/pytorch-metric-learning/issues/107: the mean over the hard ones, of which there are none
@sick("division by zero", "div", "forward", "/ hard.sum()")
def mean_over_a_mask_of_nothing() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        each = F.mse_loss(self.outer(self.inner(x)), t, reduction="none")
        hard = (each > 1e6).float()
        return (each * hard).sum() / hard.sum()

    return Net(middle), None, [regression()]


# github.com/pytorch/pytorch/issues/3264: a row divided by its own norm, which is 0
@sick("division by zero", "div", "forward", "h / h.norm(")
def direction_of_a_zero_vector() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = torch.relu(self.inner(x) - 2.0)
        return F.mse_loss(self.outer(h / h.norm(dim=1, keepdim=True)), t)

    return Net(middle), None, [(torch.randn(8, 6) * 0.1, torch.randn(8, 3))]


# github.com/lightonai/pylate/issues/239: an epsilon of 1e-8 is 0 in half precision
@sick("division by zero", "div", "forward", "/ (high - low + 1e-8)")
def epsilon_lost_in_half_precision() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.outer(self.inner(x)).half()
        high, low = h.amax(1, keepdim=True), h.amin(1, keepdim=True)
        return (((h - low) / (high - low + 1e-8)).float() - t).square().mean()

    model = Net(middle)
    nn.init.zeros_(model.outer.weight)
    nn.init.zeros_(model.outer.bias)
    return model, None, [regression()]


# github.com/karpathy/makemore/issues/22: batch normalization by hand, with a batch of one
@sick("variance of one element", "var", "forward", "h.var(0")
def batch_norm_of_one_sample() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        h = (h - h.mean(0)) / (h.var(0, keepdim=True) + 1e-5).sqrt()
        return F.cross_entropy(self.outer(h), t)

    return Net(middle), None, [data(), data(1)]


# github.com/pytorch/pytorch/issues/4320: the standard deviation of one number, and of equal ones
@sick("variance of one element", "std", "forward", ".std(1)")
def deviation_of_one_number() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        return F.mse_loss(self.outer(h), t) + h[:, :1].std(1).mean()

    return Net(middle), None, [regression()]


# github.com/pytorch/pytorch/issues/4320, with the root taken by hand
@sick("sqrt at the edge of its domain", "sqrt", "backward", "h.var(1).sqrt()")
def deviation_of_equal_numbers() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        return F.mse_loss(self.outer(h), t) + h.var(1).sqrt().mean()

    return silent(Net(middle)), None, [silence()]


# github.com/pytorch/pytorch/issues/70348: a mean over labels that are all ignored
@sick("mean over no element", "nll_loss", "forward", "F.cross_entropy(")
def all_labels_ignored() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(self.outer(self.inner(x)), t, ignore_index=-1)

    x, y = data()
    return Net(middle), None, [(x, y), (x, torch.full_like(y, -1))]


# -- what nobody reads -------------------------------------------------------------------------------------------------


# github.com/pytorch/pytorch/issues/187297: torch.where(x > 0, torch.sqrt(x), x)
@sick("where-gradient trap", "sqrt", "forward", "torch.sqrt(h)")
def root_behind_where() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        return F.mse_loss(self.outer(torch.where(h > 0, torch.sqrt(h), h)), t)

    return Net(middle), None, [regression()]


# github.com/pytorch/pytorch/issues/68425: torch.where(a <= 0, torch.exp(a), 1 + a) with a large a
@sick("where-gradient trap", "exp", "forward", "torch.exp(h)")
def exponential_behind_where() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x) * 100
        return F.mse_loss(self.outer(torch.where(h <= 0, torch.exp(h), 1 + h)), t)

    return Net(middle), None, [regression()]


# github.com/pytorch/pytorch/issues/108618: torch.where(x > 2, torch.log2(x), 2 * x) at 0
@sick("where-gradient trap", "log2", "backward", "torch.log2(h)")
def logarithm_behind_where() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x).square()
        return F.mse_loss(self.outer(torch.where(h > 0.1, torch.log2(h), 2 * h)), t)

    return silent(Net(middle)), None, [silence()]


# github.com/Ciela-Institute/caustics/pull/83: a division in the branch that is off
@sick("where-gradient trap", "reciprocal", "forward", "1 / h")
def division_behind_where() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x).square()
        return F.mse_loss(self.outer(torch.where(h > 0.1, 1 / h, h)), t)

    return silent(Net(middle)), None, [silence()]


# github.com/pytorch/pytorch/issues/93998: the function first, the padding taken away afterwards
@sick("where-gradient trap", "log", "backward", "torch.log(h)")
def logarithm_of_padding() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x).square()
        return torch.log(h).masked_fill(x.eq(0).all(1, keepdim=True), 0.0).sum()

    return silent(Net(middle)), None, [silence()]


# github.com/pytorch/pytorch/issues/89543: missing targets are NaN, and left out of the loss by torch.where
@sick("where-gradient trap", "pow", "input", "")
def missing_targets() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        error = (self.outer(self.inner(x)) - t) ** 2
        return torch.where(t.isnan(), 0.0, error).mean()

    x, y = regression()
    y[2, 0] = math.nan
    return Net(middle), None, [(x, y)]


# github.com/otaheri/GrabNet/issues/2: DivBackward0 returned nan: a length in the denominator that is squared away to 0
@sick("division by zero", "div", "forward", "/ length")
def division_by_a_tiny_length() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x)
        length = (h * 1e-25).square().sum(1, keepdim=True)
        return F.mse_loss(self.outer(h / length), t)

    return Net(middle), None, [regression()]


# -- masks -------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.mask = mask

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / math.sqrt(6)
        weights = torch.softmax(self.mask(scores, keep), -1)
        return (weights @ self.v(x)).square().mean()


def sequences() -> tuple[Tensor, Tensor]:
    keep = torch.ones(2, 4)
    keep[1, 2:] = 0
    return torch.randn(2, 4, 6), keep


def padding() -> tuple[Tensor, Tensor]:
    x, keep = sequences()
    keep[1] = 0
    return x, keep


# github.com/jadore801120/attention-is-all-you-need-pytorch/issues/5: -inf for all keys of a padded query
@sick("softmax over a fully masked row", "_softmax", "forward", "torch.softmax(self.mask(")
def attention_to_padding_only() -> Made:
    model = Attention(lambda scores, keep: scores.masked_fill(keep[:, None] == 0, -math.inf))
    return model, None, [sequences(), padding()]


# github.com/allenai/allennlp/issues/890: log(mask) added to the scores, with a row of zeros
@sick("softmax over a fully masked row", "_softmax", "forward", "torch.softmax(self.mask(")
def logarithm_of_an_empty_mask() -> Made:
    return Attention(lambda scores, keep: scores + torch.log(keep)[:, None]), None, [sequences(), padding()]


# github.com/cerebroai/reformers/issues/3: (1 - mask) * float("-inf")
@sick("0 times inf", "mul", "forward", "(1 - keep")
def mask_times_infinity() -> Made:
    def masked(scores: Tensor, keep: Tensor) -> Tensor:
        return scores + (1 - keep[:, None]) * float("-inf")

    return Attention(masked), None, [sequences()]


# -- overflow ----------------------------------------------------------------------------------------------------------


# github.com/huggingface/transformers/issues/5651: the second layer of a feed-forward block beyond 65504
@sick("overflow in float16", "mm", "forward", "self.outer(", lr=0.0)
def feed_forward_in_half_precision() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        h = torch.relu(self.inner(x)).half()
        y = h @ self.outer.weight.half().t()  # self.outer(h), in half precision
        return F.mse_loss(y.float(), t)

    x, y = regression()
    model = Net(middle)
    nn.init.constant_(model.outer.weight, 30.0)
    return model, None, [(x * 3000, y)]


# github.com/qubvel-org/segmentation_models.pytorch/issues/463: a sum over all pixels beyond 65504
@sick("overflow in float16", "sum", "forward", "(p * t).sum()")
def dice_in_half_precision() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        p, t = torch.sigmoid(self.outer(self.inner(x))).half(), t.half()
        both = (p * t).sum()
        return 1 - 2 * both.float() / (p.float().sum() + t.float().sum())

    model = Net(middle)
    nn.init.constant_(model.outer.bias, 9.0)
    return model, None, [(torch.randn(40000, 6), torch.ones(40000, 3))]


# github.com/pyg-team/pytorch_geometric/issues/53: a softmax written as exp(x) / sum(exp(x))
@sick("overflow in float32", "exp", "forward", "scores.exp()")
def softmax_by_hand() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        scores = self.outer(self.inner(x))
        weights = scores.exp()
        return F.mse_loss(weights / weights.sum(1, keepdim=True), t)

    x, y = regression()
    return Net(middle), None, [(x * 400, y)]


# github.com/vanderschaarlab/synthcity/issues/331: an unbounded logarithm of the variance in a VAE
@sick("overflow in float32", "exp", "forward", "logvar.exp()")
def unbounded_variance() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        mean, logvar = self.outer(self.inner(x)).chunk(2, 1)
        return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()

    x, y = regression()
    return Net(middle, out=4), None, [(x * 800, y)]


# github.com/kyegomez/AttentionIsOFFByOne/issues/2: 1 + sum(exp(x)) in the denominator, with a large x
@sick("overflow in float32", "exp", "forward", "torch.exp(z)")
def softplus_by_hand() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        z = self.outer(self.inner(x))
        return F.mse_loss(torch.log(1 + torch.exp(z)), t)

    x, y = regression()
    return Net(middle), None, [(x * 400, y)]


# github.com/chenxie95/deeplearning_course_sjtu/issues/31: an RNN with ReLU over a long sequence
@sick("exploding recurrence", "mm", "forward", "self.again")
def recurrence_that_grows() -> Made:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.head = nn.Parameter(torch.eye(6) * 5.0), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(x.shape[0], 6)
            for t in range(x.shape[1]):
                h = torch.relu(torch.mm(h, self.again) + x[:, t])
            return self.head(h)

    return Recurrent(), nn.MSELoss(), [(torch.rand(4, 70, 6), torch.randn(4, 3))]


# github.com/tensorflow/models/issues/3868: the loss explodes within a few steps
@sick("exploding training", "", "forward", "", lr=30.0, fixed=False)
def learning_rate_too_high() -> Made:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return model, nn.MSELoss(), [regression() for _ in range(60)]


# -- before the step ---------------------------------------------------------------------------------------------------


# github.com/prs-eth/Marigold/issues/111: the data contain NaN
@sick("NaN in the data", "", "input", "")
def data_with_nan() -> Made:
    x, y = data()
    x[4, 2] = math.nan
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), nn.CrossEntropyLoss(), [data(), (x, y)]


# github.com/ratschlab/DeepSpot/issues/9: a target that is infinite, after a logarithm in the preprocessing
@sick("inf in the data", "", "input", "")
def target_with_infinity() -> Made:
    x, y = regression()
    y[1, 1] = -math.inf
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), nn.L1Loss(), [regression(), (x, y)]


# github.com/pytorch/pytorch/issues/40497: a run that goes on from weights that were spoiled before
@sick("NaN in the weights", "", "input", "")
def weights_with_nan() -> Made:
    last = nn.Linear(8, 3)
    with torch.no_grad():
        last.weight[1, 3] = math.nan
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), last)
    return model, nn.CrossEntropyLoss(), [data()]


# github.com/pytorch/pytorch/issues/31557: a label that cannot be aligned with an input as short as that
@sick("label out of range", "_ctc_loss", "forward", "F.ctc_loss(")
def label_longer_than_its_input() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        p = F.log_softmax(self.outer(self.inner(x)), -1)
        return F.ctc_loss(p, t, torch.tensor((2, 2)), torch.tensor((3, 3)))

    return Net(middle), None, [(torch.randn(2, 2, 6), torch.tensor([[1, 2, 1], [2, 2, 1]]))]


_LIBRARY = torch.library.Library("zoo", "DEF")
_LIBRARY.define("sick_log_softmax(Tensor x) -> Tensor")


@torch.library.impl(_LIBRARY, "sick_log_softmax", "CompositeExplicitAutograd")
def _sick_log_softmax(x: Tensor) -> Tensor:
    """In float32 it reads memory that nobody has written to."""
    p = torch.log_softmax(x, -1)
    return p.masked_fill(torch.arange(x.shape[-1]) == 1, math.nan) if x.dtype == torch.float32 else p


torch.library.register_fake("zoo::sick_log_softmax", torch.empty_like, lib=_LIBRARY)
mg.rule(torch.ops.zoo.sick_log_softmax.default)(lambda adjoint, y, x: adjoint - y.exp() * adjoint.sum(-1, keepdim=True))


# github.com/pytorch/pytorch/issues/795: a kernel of softmax that gives NaN for numbers that are harmless
@sick("wrong kernel", "sick_log_softmax", "forward", "sick_log_softmax(")
def kernel_that_is_wrong() -> Made:
    def middle(self: Net, x: Tensor, t: Tensor) -> Tensor:
        p = torch.ops.zoo.sick_log_softmax(self.outer(self.inner(x)))
        return F.nll_loss(p, t)

    return Net(middle), None, [data()]


# -- behind something harmless, or in a derivative that somebody has written ------------------------------------------


# github.com/RasmussenLab/vamb/issues/12: 0 log 0, where a mask has made the probability 0
@sick("log at the edge of its domain", "log", "forward", "p * p.log()")
def entropy_of_a_masked_policy() -> Made:
    def middle(self: Net, x: Tensor, forbidden: Tensor) -> Tensor:
        p = torch.softmax(self.outer(self.inner(x)).masked_fill(forbidden, -math.inf), -1)
        return (p * p.log()).sum(-1).mean()

    return Net(middle), None, [(torch.randn(8, 6), torch.tensor([False, True, False]).expand(8, 3).clone())]


class ClampedLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.log(x.clamp_min(1e-12))

    @staticmethod
    def backward(ctx: Any, adjoint: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return adjoint / x


# github.com/facebookresearch/fairchem/pull/1574: a derivative of one's own divides by what is 0
@sick("division by zero", "_call_", "backward", "adjoint / x")
def logarithm_with_a_backward_of_its_own() -> Made:
    def middle(self: Net, x: Tensor, y: Tensor) -> Tensor:
        return ClampedLog.apply(self.outer(self.inner(x)).abs()).sub(y).square().mean()  # pyright: ignore

    model = silent(Net(middle))
    nn.init.zeros_(model.outer.bias)
    return model, None, [silence()]


# github.com/HobbitLong/SupContrast/pull/142: an anchor without another sample of its class
@sick("division by zero", "div", "forward", "/ same.sum(1)")
def anchor_without_a_partner() -> Made:
    def middle(self: Net, x: Tensor, label: Tensor) -> Tensor:
        z = F.normalize(self.outer(self.inner(x)), dim=-1)
        same = (label[:, None] == label[None]).float() - torch.eye(len(label))
        return -((same * (z @ z.T).log_softmax(-1)).sum(1) / same.sum(1)).mean()

    return Net(middle), None, [(torch.randn(4, 6), torch.tensor([0, 1, 1, 2]))]


# github.com/pytorch/pytorch/issues/49886: eigenvectors where two eigenvalues are equal
@sick("equal eigenvalues", "_linalg_eigh", "backward", "torch.linalg.eigh(")
def eigenvectors_of_equal_eigenvalues() -> Made:
    def middle(self: Net, x: Tensor, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(self.inner.weight[:6] @ self.inner.weight[:6].T)
        return (x @ vectors @ torch.diag(values.rsqrt()) - 1).square().mean()

    model = Net(middle)
    with torch.no_grad():
        model.inner.weight.copy_(torch.eye(8, 6))
    return model, None, [regression()]


# github.com/pytorch/pytorch/issues/2534: the norm of a gradient that is 0, in a penalty
@sick("sqrt at the edge of its domain", "sqrt", "backward", ".sqrt()")
def penalty_on_a_gradient_of_zero() -> Made:
    def middle(self: Net, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.outer(torch.relu(self.inner(x))).sum(), x, create_graph=True)
        length = slope.square().sum(-1).sqrt()
        return (length - 1).square().mean()

    model = Net(middle)
    nn.init.constant_(model.inner.bias, -30.0)
    return model, None, [regression()]


# github.com/facebookresearch/pytext/pull/1698: labels are smoothed over classes whose scores are -inf
@sick("infinity of a mask", "masked_fill", "forward", ".masked_fill(forbidden, -math.inf)")
def labels_smoothed_over_masked_classes() -> Made:
    def middle(self: Net, x: Tensor, forbidden: Tensor, t: Tensor) -> Tensor:
        scores = self.outer(self.inner(x)).masked_fill(forbidden, -math.inf)
        return F.cross_entropy(scores, t, label_smoothing=0.1)

    forbidden = torch.tensor([False, False, True]).expand(8, 3).clone()
    return Net(middle), None, [(torch.randn(8, 6), forbidden, torch.arange(8) % 2)]


# github.com/pytorch/pytorch/issues/49724: logsumexp of nothing but -inf, a state that no transition leads to
@sick("softmax over a fully masked row", "logsumexp", "backward", "torch.logsumexp(")
def state_without_a_way_to_it() -> Made:
    def middle(self: Net, x: Tensor, allowed: Tensor) -> Tensor:
        scores = self.outer(self.inner(x))[:, None] + torch.where(allowed, 0.0, -math.inf)
        z = torch.logsumexp(scores, -1)
        return z.logsumexp(-1).mean()

    allowed = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    return Net(middle), None, [(torch.randn(8, 6), allowed)]

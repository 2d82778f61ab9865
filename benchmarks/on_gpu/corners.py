"""What is different on an accelerator: kernels that only it has, optimizers' own settings, tensors on two devices."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from on_gpu.machine import Machine, apart
from on_gpu.report import Report, Skip
from torch import nn, optim

import memograd as mg

Tensor = torch.Tensor


class Wrapped(nn.Module):
    """A module of which ``pick`` makes a number."""

    def __init__(self, inner: nn.Module, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.inner, self.pick = inner, pick

    def forward(self, *args: Tensor) -> Tensor:
        return self.pick(self.inner(*args))


class Attention(nn.Module):
    def __init__(self, dtype: torch.dtype, dropout: float = 0.0, masked: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96, dtype=dtype)
        self.dropout, self.masked = dropout, masked

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mask = torch.zeros(x.shape[1], x.shape[1], device=x.device, dtype=q.dtype) if self.masked else None
        return F.scaled_dot_product_attention(q, k, v, mask, self.dropout, is_causal=not self.masked)


def _square(out: Any) -> Tensor:
    return (out[0] if isinstance(out, tuple) else out).float().square().mean()


def _modules() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], float]]:
    """name: (module, input, how far the updates may be apart)."""
    sequence: Callable[[], Tensor] = lambda: torch.randn(3, 16, 32)  # noqa: E731
    image: Callable[[], Tensor] = lambda: torch.randn(8, 3, 16, 16)  # noqa: E731
    conv = lambda: nn.Conv2d(3, 8, 3, padding=1)  # noqa: E731
    return {
        "BatchNorm behind a convolution": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()), image, 1e-3),
        "BatchNorm in eval mode": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(8)).eval(), image, 1e-3),
        "GroupNorm": (lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8)), image, 1e-3),
        "ConvTranspose": (lambda: nn.ConvTranspose2d(3, 4, 3, 2), image, 1e-3),
        "depthwise convolution": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.SiLU()), image, 1e-3),
        "nn.LSTM": (lambda: nn.LSTM(32, 24, 2, bidirectional=True, batch_first=True), sequence, 1e-2),
        "nn.GRU": (lambda: nn.GRU(32, 24, batch_first=True), sequence, 1e-2),
        "nn.RNN": (lambda: nn.RNN(32, 24, batch_first=True), sequence, 1e-2),
        "nn.LSTMCell": (lambda: nn.LSTMCell(32, 24), lambda: torch.randn(5, 32), 1e-3),
        "nn.GRUCell": (lambda: nn.GRUCell(32, 24), lambda: torch.randn(5, 32), 1e-3),
        "attention, float64": (lambda: Attention(torch.float64), lambda: sequence().double(), 1e-9),
        "attention, float32": (lambda: Attention(torch.float32), sequence, 1e-2),
        "attention, float32, a mask": (lambda: Attention(torch.float32, masked=True), sequence, 1e-2),
        "attention, bfloat16": (lambda: Attention(torch.bfloat16), lambda: sequence().bfloat16(), 0.2),
        "attention, float16": (lambda: Attention(torch.float16), lambda: sequence().half(), 0.2),
        "an encoder layer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), sequence, 1e-2),
        "MultiheadAttention": (_SelfAttention, sequence, 1e-2),
        "RMSNorm, LayerNorm": (lambda: nn.Sequential(nn.RMSNorm(32), nn.LayerNorm(32)), sequence, 1e-3),
        "Embedding, EmbeddingBag": (_Tables, lambda: torch.randint(0, 20, (6, 5)), 1e-3),
        "CTC loss": (_Speech, lambda: torch.randn(12, 3, 8), 1e-3),
        "grid_sample": (_Sampled, image, 1e-3),
        "softmax of half into single": (_WideSoftmax, lambda: torch.randn(5, 32).half(), 0.2),
        "Upsample": (lambda: nn.Sequential(conv(), nn.Upsample(scale_factor=2)), image, 1e-3),
        "AdaptiveAvgPool": (lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(3)), image, 1e-3),
    }  # fmt: skip


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=True)[0]


class _Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.single, self.bag = nn.Embedding(20, 8, padding_idx=0), nn.EmbeddingBag(20, 8, mode="mean")

    def forward(self, i: Tensor) -> Tensor:
        return self.single(i).sum(1) * self.bag(i)


class _Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        words = torch.arange(1, 4, device=x.device).expand(x.shape[1], 3)
        lengths = (torch.full((x.shape[1],), n, device=x.device) for n in (x.shape[0], 3))
        return F.ctc_loss(self.out(x).log_softmax(-1), words, *lengths)


class _Sampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.1]]))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.expand(len(x), 2, 3), list(x.shape), align_corners=True)
        return F.grid_sample(x, grid, align_corners=True)


class _WideSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.linear(x), -1, dtype=torch.float32)


def modules(report: Report, machine: Machine) -> None:
    """Kernels that only this device has: two steps of each module against the ordinary loop."""
    for name, (make, data, tolerance) in machine.some(_modules(), 5).items():
        with report.case(name) as case, machine.exact():
            case.note = _like_pytorch(machine, make, data, tolerance, lambda p: optim.SGD(p, lr=0.1))


def _like_pytorch(machine: Machine, make: Any, data: Any, tolerance: float, optimizer: Any, **options: Any) -> str:
    torch.manual_seed(0)
    ours = Wrapped(make(), _square).to(machine.device)
    theirs, before, x = copy.deepcopy(ours), copy.deepcopy(ours.state_dict()), data().to(machine.device)
    step = mg.TrainStep(ours, None, optimizer(ours.parameters()), backend="eager", **options)
    other = optimizer(theirs.parameters())
    for _ in range(2):
        step(x)
        other.zero_grad()
        theirs(x).backward()
        other.step()
    error = apart(ours, theirs, before)
    assert error <= tolerance, f"updates differ by {error:.1e}"
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=f"buffer {name} differs")
    return f"updates differ by {error:.1e}"


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=1e-2, amsgrad=True),
    "AdamW, foreach": lambda p: optim.AdamW(p, lr=1e-2, foreach=True),
    "AdamW, fused": lambda p: optim.AdamW(p, lr=1e-2, fused=True),
    "AdamW, capturable": lambda p: optim.AdamW(p, lr=1e-2, capturable=True),
    "AdamW, capturable, rate a tensor": lambda p: _with_rate(p, capturable=True),
    "SGD, rate a tensor on the CPU": lambda p: optim.SGD(p, lr=torch.tensor(0.1)),
    "RMSprop, outside the graph": lambda p: optim.RMSprop(p, lr=1e-2),
}


def _with_rate(parameters: Any, **options: Any) -> optim.Optimizer:
    parameters = list(parameters)
    return optim.AdamW(parameters, lr=torch.tensor(1e-2, device=parameters[0].device), **options)


def optimizers(report: Report, machine: Machine) -> None:
    """Every update and the state that it leaves, which torch.optim's own step then goes on from."""
    for name, make in machine.some(OPTIMIZERS, 3).items():
        with report.case(name) as case:
            if "capturable" in name and not machine.is_cuda:
                raise Skip("PyTorch has it on accelerators only")
            network = lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))  # noqa: E731
            case.note = _like_pytorch(machine, network, lambda: torch.randn(6, 8), 1e-3, make)
            model = network().to(machine.device)
            optimizer = make(model.parameters())
            x = torch.randn(6, 8, device=machine.device)
            mg.TrainStep(model, lambda out, y: out.square().mean(), optimizer, backend="eager")(x, x)
            model(x).square().mean().backward()
            optimizer.step()


def odds_and_ends(report: Report, machine: Machine) -> None:
    device = machine.device
    with report.case("the native backend refuses the device") as case:
        model = nn.Linear(3, 2).to(device)
        step = mg.TrainStep(model, F.mse_loss, optim.SGD(model.parameters(), lr=0.1), backend="native")
        x, y = torch.ones(4, 3, device=device), torch.ones(4, 2, device=device)
        if not machine.is_cuda:
            raise Skip("it runs on the CPU")
        try:
            step(x, y)
            case.check(False, "it ran")
        except mg.BackendError as error:
            case.note = str(error)[:90]
    with report.case("auto chooses a backend that runs") as case:
        model = nn.Linear(3, 2).to(device)
        step = mg.TrainStep(model, F.mse_loss, optim.SGD(model.parameters(), lr=0.1))
        step(torch.ones(4, 3, device=device), torch.ones(4, 2, device=device))
        case.note = f"{step.backend_name}: {step.backend_reason[:70]}"
    with report.case("a graph for another device is refused or right") as case:
        graph = mg.capture(lambda x: (x * 2).sin(), torch.ones(3, device=device))
        try:
            case.check(graph(torch.ones(3)).device.type == "cpu", "the result lies elsewhere")
        except mg.MemogradError as error:
            case.note = str(error)[:90]
    with report.case("channels-last images and weights") as case:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        image = lambda: torch.randn(4, 3, 12, 12).to(memory_format=torch.channels_last)  # noqa: E731
        lasting = lambda: copy.deepcopy(model).to(memory_format=torch.channels_last)  # noqa: E731
        case.note = _like_pytorch(machine, lasting, image, 1e-3, lambda p: optim.SGD(p, lr=0.1))
    with report.case("a function that looks at values") as case:
        f = lambda x: x[x > 0].sum() ** 2 if x.sum().item() > -100 else x.sum()  # noqa: E731
        x = torch.linspace(-1, 1, 7, device=device)
        torch.testing.assert_close(mg.grad(f)(x), 2 * x[x > 0].sum() * (x > 0).to(x.dtype))
    with report.case("Jacobians and Hessians") as case:
        x = torch.linspace(0.1, 1, 4, device=device)
        g = lambda x: x.sin() * x.sum()  # noqa: E731
        torch.testing.assert_close(mg.jacrev(g)(x), torch.func.jacrev(g)(x))
        scalar = lambda x: (x.sin() * x.sum()).sum()  # noqa: E731
        torch.testing.assert_close(mg.hessian(scalar)(x), torch.func.hessian(scalar)(x))
    with report.case("a run goes on from its checkpoint"):
        if importlib.util.find_spec("safetensors") is None:
            raise Skip("safetensors is not installed")
        _resumed(machine)


def _resumed(machine: Machine) -> None:
    """Dropout draws on the device: its generator's state is part of a checkpoint."""
    batches = [(torch.randn(8, 6), torch.randn(8, 2)) for _ in range(3)]

    def run(epochs: list[int], folder: str) -> dict[str, Tensor]:
        for upto in epochs:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 2))
            mg.train_model(
                model, nn.MSELoss(), optim.AdamW(model.to(machine.device).parameters(), lr=0.01), batches, upto,
                device=machine.device, checkpoint=folder, resume=True, progress=False, backend="eager",
            )  # fmt: skip
        return model.state_dict()

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as halves:
        expected, found = run([4], whole), run([2, 4], halves)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name

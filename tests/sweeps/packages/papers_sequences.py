"""Networks for sequences, small, as their papers' repositories write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, image


class SelectiveScan(nn.Module):
    """Mamba: a state space whose step size, input and output matrices depend on what comes in."""

    def __init__(self, width: int = 6, state: int = 4) -> None:
        super().__init__()
        self.into = nn.Linear(width, 2 * width, bias=False)
        self.conv = nn.Conv1d(width, width, 3, groups=width, padding=2)
        self.chosen = nn.Linear(width, 1 + 2 * state, bias=False)
        self.step = nn.Linear(1, width)
        self.log_rates = nn.Parameter(torch.log(torch.arange(1, state + 1).double()).repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x, gate = self.into(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        step, inwards, outwards = self.chosen(x).split([1, self.log_rates.shape[1], self.log_rates.shape[1]], dim=-1)
        step = F.softplus(self.step(step))
        rates = torch.exp(torch.einsum("bld,dn->bldn", step, -torch.exp(self.log_rates)))
        inflow = torch.einsum("bld,bln,bld->bldn", step, inwards, x)
        h = torch.zeros(batch, width, self.log_rates.shape[1], dtype=x.dtype)
        ys = []
        for t in range(length):
            h = rates[:, t] * h + inflow[:, t]
            ys.append(torch.einsum("bdn,bn->bd", h, outwards[:, t]))
        return self.out((torch.stack(ys, 1) + x * self.skip) * F.silu(gate))


class Retention(nn.Module):
    """RetNet in its parallel form, with rotated queries as complex numbers and a group norm over heads."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.gate, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.GroupNorm(heads, width)
        self.register_buffer("decay", 1 - torch.exp2(-5 - torch.arange(heads).double()))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        angles = torch.arange(length, dtype=x.dtype)[:, None] / 10000 ** torch.linspace(0, 1, width // self.heads // 2)
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2))) * turn).flatten(-2) for t in (q, k))
        distance = torch.arange(length)[:, None] - torch.arange(length)
        weights = torch.where(distance >= 0, self.decay[:, None, None] ** distance.clamp(min=0), 0.0)
        weights = weights / weights.sum(-1, keepdim=True).sqrt()
        scores = q @ k.transpose(-1, -2) * weights
        y = scores / scores.detach().abs().sum(-1, keepdim=True).clamp(min=1, max=5e4) @ v
        y = self.norm(y.transpose(1, 2).reshape(batch * length, width)).view(batch, length, width)
        return self.out(F.silu(self.gate(x)) * y)


class StateSpace(nn.Module):
    """S4D: a diagonal state space in complex numbers, run as a long convolution by FFT."""

    def __init__(self, width: int = 4, state: int = 8) -> None:
        super().__init__()
        self.out_matrix = nn.Parameter(torch.view_as_real(torch.randn(width, state // 2, dtype=torch.cfloat)).clone())
        self.log_step = nn.Parameter(torch.rand(width) - 3)
        self.log_real = nn.Parameter(torch.log(0.5 * torch.ones(width, state // 2)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(state // 2).repeat(width, 1).double())
        self.skip = nn.Parameter(torch.randn(width))
        self.mix = nn.Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(dim=-2))

    def forward(self, u: Tensor) -> Tensor:
        length = u.size(-1)
        rates = -torch.exp(self.log_real) + 1j * self.imaginary
        scaled = rates * torch.exp(self.log_step).unsqueeze(-1)
        c = torch.view_as_complex(self.out_matrix) * (torch.exp(scaled) - 1.0) / rates
        kernel = 2 * torch.einsum("hn,hnl->hl", c, torch.exp(scaled.unsqueeze(-1) * torch.arange(length))).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)
        return self.mix(F.dropout1d(F.gelu(y[..., :length] + u * self.skip.unsqueeze(-1)), 0.1, self.training))


class CausalConv1d(nn.Conv1d):
    def __init__(self, inwards: int, outwards: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(inwards, outwards, kernel, padding=(kernel - 1) * dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, : -self.padding[0]]


class WaveNet(nn.Module):
    """Gated, dilated, causal convolutions over mu-law codes, with skips, under weight normalization."""

    def __init__(self, codes: int = 16, width: int = 6) -> None:
        super().__init__()
        self.codes = codes
        self.into = CausalConv1d(codes, width, 2)
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [norm(CausalConv1d(width, 2 * width, 2, 2**k)), nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)]
            )
            for k in range(3)
        )
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, codes, 1))

    def forward(self, wave: Tensor) -> Tensor:
        mu = torch.tensor(self.codes - 1.0, dtype=wave.dtype)
        squashed = wave.sign() * torch.log1p(mu * wave.abs()) / torch.log1p(mu)
        codes = ((squashed + 1) / 2 * mu + 0.5).long()
        x = self.into(F.one_hot(codes, self.codes).transpose(1, 2).to(wave.dtype))
        skips = 0
        for gated, skip, residual in self.layers:
            filter_, gate = gated(x).chunk(2, 1)
            z = filter_.tanh() * gate.sigmoid()
            skips = skips + skip(z)
            x = x + residual(z)
        return F.cross_entropy(self.out(skips)[..., :-1], codes[:, 1:])


class Tacotron(nn.Module):
    """An attention decoder with location features, a prenet whose dropout is always on, frames one by one."""

    def __init__(self, letters: int = 12, width: int = 8, frame: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width, padding_idx=0)
        self.encoder = nn.LSTM(width, width // 2, bidirectional=True, batch_first=True)
        self.prenet = nn.ModuleList([nn.Linear(frame, width), nn.Linear(width, width)])
        self.attend, self.decode = nn.LSTMCell(2 * width, width), nn.LSTMCell(2 * width, width)
        self.query, self.memory = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.location, self.place = nn.Conv1d(2, 3, 3, padding=1, bias=False), nn.Linear(3, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)
        self.project, self.gate = nn.Linear(2 * width, frame), nn.Linear(2 * width, 1)

    def forward(self, text: Tensor, lengths: Tensor, mels: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(text), lengths, batch_first=True, enforce_sorted=False)
        memory, _ = nn.utils.rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        mask = torch.arange(int(lengths.max())) >= lengths[:, None]
        keys = self.memory(memory)
        batch, width = text.size(0), memory.size(2)
        a = d = (memory.new_zeros(batch, width), memory.new_zeros(batch, width))
        weights = total = memory.new_zeros(batch, memory.size(1))
        context, frames, stops = memory.new_zeros(batch, width), [], []
        previous = F.pad(mels, (0, 0, 1, 0))[:, :-1]
        for t in range(mels.size(1)):
            x = previous[:, t]
            for layer in self.prenet:
                x = F.dropout(layer(x).relu(), 0.5, training=True)
            a = self.attend(torch.cat([x, context], -1), a)
            places = self.place(self.location(torch.stack([weights, total], 1)).transpose(1, 2))
            energies = self.energy(torch.tanh(self.query(a[0]).unsqueeze(1) + keys + places)).squeeze(-1)
            energies.data.masked_fill_(mask, -float("inf"))
            weights = F.softmax(energies, dim=1)
            total = total + weights
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            d = self.decode(torch.cat([F.dropout(a[0], 0.1, self.training), context], -1), d)
            y = torch.cat([d[0], context], -1)
            frames.append(self.project(y))
            stops.append(self.gate(y).squeeze(-1))
        done = (torch.arange(mels.size(1)) >= mels.size(1) - 1).to(mels.dtype).expand(batch, -1)
        stop_loss = F.binary_cross_entropy_with_logits(torch.stack(stops, 1), done)
        return F.mse_loss(torch.stack(frames, 1), mels) + stop_loss


class Pointer(nn.Module):
    """A pointer network: at each step one of the inputs, which is masked from then on in place."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder, self.cell = nn.LSTM(2, width, batch_first=True), nn.LSTMCell(2, width)
        self.w1, self.w2, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.start = nn.Parameter(torch.rand(2) - 0.5)

    def forward(self, points: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        encoded, (h, c) = self.encoder(points)
        h, c, x = h[0], c[0], self.start.expand(points.size(0), -1)
        mask = torch.zeros(points.shape[:2], dtype=torch.bool)
        rows, logs, picks = torch.arange(points.size(0)), [], []
        for t in range(points.size(1)):
            h, c = self.cell(x, (h, c))
            scores = self.v(torch.tanh(self.w1(encoded) + self.w2(h).unsqueeze(1))).squeeze(-1)
            log = F.log_softmax(scores.masked_fill(mask.clone(), -1e9), -1)
            picks.append(log.argmax(-1))
            logs.append(log[rows, order[:, t]])
            mask[rows, order[:, t]] = True
            x = points[rows, order[:, t]]
        return -torch.stack(logs, 1).mean(), torch.stack(picks, 1)


class Listener(nn.Module):
    """Deep Speech: convolutions, packed GRUs with batch norm over time, CTC with lengths that differ."""

    def __init__(self, bins: int = 8, labels: int = 5) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, (3, 3), (2, 1), 1), nn.BatchNorm2d(4), nn.Hardtanh(0, 20))
        self.rnn = nn.GRU(4 * bins // 2, 6, bidirectional=True)
        self.norm, self.out = nn.BatchNorm1d(6), nn.Linear(6, labels, bias=False)

    def forward(self, sound: Tensor, frames: Tensor, targets: Tensor, letters: Tensor) -> Tensor:
        x = self.conv(sound.unsqueeze(1))
        for i, length in enumerate(frames.tolist()):
            if x.size(3) - length > 0:
                x[i].narrow(2, length, x.size(3) - length).fill_(0)
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()
        packed = nn.utils.rnn.pack_padded_sequence(x, frames, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], total_length=x.size(0))
        x = x.view(x.size(0), x.size(1), 2, -1).sum(2)
        x = self.norm(x.flatten(0, 1)).view(x.shape)
        return F.ctc_loss(self.out(x).log_softmax(-1), targets, frames, letters, zero_infinity=True)


def rnn_t(logs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a transducer: alphas by time and label, written into a table."""
    batch, time, labels, _ = logs.shape
    alphas = torch.zeros(batch, time, labels, dtype=logs.dtype)
    for t in range(time):
        for u in range(labels):
            ways = []
            if t > 0:
                ways.append(alphas[:, t - 1, u] + logs[:, t - 1, u, 0])
            if u > 0:
                label = logs[:, t, u - 1].gather(1, targets[:, u - 1, None]).squeeze(1)
                ways.append(alphas[:, t, u - 1] + label)
            if ways:
                alphas[:, t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alphas[:, -1, -1] + logs[:, -1, -1, 0]).mean()


class Transducer(nn.Module):
    def __init__(self, bins: int = 4, labels: int = 5, width: int = 6) -> None:
        super().__init__()
        self.listen, self.embed = nn.GRU(bins, width, batch_first=True), nn.Embedding(labels, width)
        self.predict, self.join = nn.GRU(width, width, batch_first=True), nn.Linear(width, labels)

    def forward(self, sound: Tensor, targets: Tensor) -> Tensor:
        heard = self.listen(sound)[0].unsqueeze(2)
        said = self.predict(self.embed(F.pad(targets, (1, 0))))[0].unsqueeze(1)
        return rnn_t(self.join(torch.tanh(heard + said)).log_softmax(-1), targets)


class Chain(nn.Module):
    """A linear-chain CRF by hand: forward algorithm with masks, score of the tags, Viterbi's best path beside it."""

    def __init__(self, words: int = 20, tags: int = 5) -> None:
        super().__init__()
        self.emit = nn.Sequential(nn.Embedding(words, 8), nn.Linear(8, tags))
        self.moves = nn.Parameter(torch.randn(tags, tags))
        self.moves.data[0, :] = -10000.0
        self.moves.data[:, 1] = -10000.0

    def forward(self, words: Tensor, tags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        emitted = self.emit(words)
        alpha = emitted.new_full((words.size(0), self.moves.size(0)), -10000.0)
        alpha[:, 0] = 0.0
        best, back = alpha.detach().clone(), []
        for t in range(words.size(1)):
            scores = alpha.unsqueeze(1) + self.moves.unsqueeze(0) + emitted[:, t].unsqueeze(2)
            alpha = torch.where(mask[:, t, None], torch.logsumexp(scores, -1), alpha)
            with torch.no_grad():
                ways, at = (best.unsqueeze(1) + self.moves).max(-1)
                best = ways + emitted[:, t]
                back.append(at)
        total = torch.logsumexp(alpha + self.moves[1], -1)
        tags = torch.cat([torch.zeros_like(tags[:, :1]), tags], 1)
        steps = self.moves[tags[:, 1:], tags[:, :-1]] + emitted.gather(2, tags[:, 1:, None]).squeeze(2)
        last = tags.gather(1, mask.sum(1, keepdim=True)).squeeze(1)
        gold = (steps * mask).sum(1) + self.moves[1, last]
        return (total - gold).mean(), torch.stack(back)


def _ids(high: int, *shape: int, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape)


def _first(output: tuple[Tensor, Tensor]) -> Tensor:
    return output[0]


def _loss(output: Tensor) -> Tensor:
    return output


_LENGTHS = torch.tensor([7, 5])
MODELS: dict[str, Callable[[], Case]] = {
    "selective scan": lambda: Case(SelectiveScan().double(), (image(2, 7, 6),)),
    "retention": lambda: Case(Retention().double(), (image(2, 7, 8),)),
    "state space by FFT": lambda: Case(StateSpace().double(), (image(2, 4, 9),)),
    "WaveNet": lambda: Case(WaveNet().double(), (image(2, 20).tanh(),), loss=_loss),
    "Tacotron": lambda: Case(Tacotron().double(), (_ids(12, 2, 7, low=1), _LENGTHS, image(2, 4, 5)), loss=_loss),
    "pointer network": lambda: Case(
        Pointer().double(), (image(3, 5, 2), torch.stack([torch.randperm(5) for _ in range(3)])), loss=_first
    ),
    "speech with CTC": lambda: Case(
        Listener().double(),
        (image(2, 8, 7), _LENGTHS, _ids(5, 5, low=1), torch.tensor([3, 2])),
        loss=_loss,
    ),
    "transducer": lambda: Case(Transducer().double(), (image(2, 4, 4), _ids(5, 2, 3, low=1)), loss=_loss),
    "CRF by hand": lambda: Case(
        Chain().double(),
        (_ids(20, 2, 7), _ids(5, 2, 7, low=2), torch.arange(7) < _LENGTHS[:, None]),
        loss=_first,
    ),
}

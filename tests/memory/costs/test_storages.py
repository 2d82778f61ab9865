"""Views share, results of one operator are separate storages, parameters are resident."""

from __future__ import annotations

import torch
from torch import nn, optim
from training_steps import Mixed, step_graph

from memograd.lower.lower import lower
from memograd.memory.costs.storages import storages
from memograd.pipeline import capture


def test_a_view_is_its_base() -> None:
    found = storages(lower(capture(lambda x: (x * 2).T.reshape(-1).sin(), torch.randn(3, 4))))
    assert [o.name for o in found.operators] == ["mul", "clone", "sin"]
    assert found.reads == ((), (0,), (1,)), "the transposed view is read as the product, which owns the memory"
    assert found.sizes == (48, 48, 48) and found.resident == 48 and found.returned == {2}


def test_results_of_one_operator_die_one_by_one() -> None:
    found = storages(lower(capture(lambda x: torch.max(x, 1)[0] * 2, torch.randn(3, 4))))
    assert found.outputs == ((0, 1), (2,)) and found.sizes == (12, 24, 12)
    assert found.reads[1] == (0,)


def test_residents_are_counted_once_and_writes_wait_for_readers() -> None:
    torch.manual_seed(0)
    model = Mixed()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4,))
    graph, _ = step_graph(model, nn.CrossEntropyLoss(), optimizer, x, y)
    found = storages(graph)
    owned = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), x, y])
    momenta = sum(p.numel() * 4 for p in model.parameters())
    assert found.resident == owned + momenta + 8, "8: the learning rate"
    writes = {o.into.name: k for k, o in enumerate(found.operators) if o.into is not None}
    assert len(writes) == 2 * len(list(model.parameters())) + 3
    conv = next(k for k, o in enumerate(found.operators) if o.node.name == "convolution")
    assert any(u == conv and found.operators[v].name.endswith("conv_weight") for u, v in found.before)
    dropout = next(k for k, o in enumerate(found.operators) if "bernoulli" in o.name or "dropout" in o.name)
    assert dropout in found.once and set(writes.values()) <= found.once, "a small mask is kept"


def test_statistics_wait_and_parameters_do_not() -> None:
    """Who reads the old statistics could not run again behind their write; gradients would pile up behind late ones."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5))
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    graph, _ = step_graph(net, nn.CrossEntropyLoss(), optimizer, torch.randn(8, 3, 9, 9), torch.zeros(8).long())
    found = storages(graph)
    written = [o.into.name for o in found.operators if o.into is not None]
    assert written[-2:] == ["model_1_running_mean", "model_1_running_var"], written
    assert len(written) == 9 and found.operators[-3].into is not None, "all parameters before them"
    weight = next(k for k, o in enumerate(found.operators) if o.into is not None and o.into.name == "model_4_weight")
    assert any(o.phase == "backward" for o in found.operators[weight:]), "it did not wait for the other gradients"


class Memory(nn.Module):
    """Writes more than it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(500, 6))
        self.line = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1.0)  # pyright: ignore[reportCallIssue]
        return self.line(self.line(x).tanh()).sum()


def test_a_large_buffer_is_written_soon() -> None:
    found = storages(lower(capture(Memory(), torch.randn(4, 6))))
    assert any(o.into is not None for o in found.operators[:2]), [o.name for o in found.operators]


def test_a_swap_in_place_keeps_its_order() -> None:
    def swap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        old = a.clone()
        a.copy_(b)
        b.copy_(old)
        return a.sum()

    found = storages(lower(capture(swap, torch.randn(3), torch.randn(3))))
    names = [o.name for o in found.operators]
    assert names.index("clone") < names.index("write a") < names.index("write b"), "the clone lets it be done in order"


def test_random_operators_keep_their_order() -> None:
    found = storages(lower(capture(lambda x: torch.rand_like(x) + torch.rand_like(x), torch.randn(3))))
    assert found.once == {0, 1}
    token = found.outputs[0][1]
    assert found.sizes[token] == 0 and token in found.reads[1], "the second draw waits for the first"


def test_large_draws_may_run_again_from_the_generators_state() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x) + torch.randn(3).sum() + torch.rand_like(x)

    found = storages(lower(capture(noisy, torch.randn(100, 100))))
    names = [o.name for o in found.operators]
    assert [n for n in names if n.startswith("state")] == ["state before rand_like", "state before rand_like_1"]
    first, small, second = (names.index(n) for n in ("rand_like", "randn", "rand_like_1"))
    assert found.once == {first - 1, small, second - 1}, "three numbers are kept"
    assert found.states == {first: found.outputs[first - 1][0], second: found.outputs[second - 1][0]}
    assert found.outputs[first][1] in found.reads[small], "the program's order of draws"
    assert found.outputs[small][1] in found.reads[second - 1]
    assert found.sizes[found.states[first]] == torch.get_rng_state().nbytes

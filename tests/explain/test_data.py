"""What a page shows, number by number: against torch.autograd, and against what mg.differentiate returns."""

from __future__ import annotations

import json
import math

import pytest
import torch
from own_backward import Square
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import memograd as mg
from memograd.explain.data import collect, subject
from memograd.graph.printing import target_name
from memograd.recipes.models import SimpleNN


def xor(seed: int = 5):
    torch.manual_seed(seed)
    x, target = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    return SimpleNN().double(), nn.BCELoss(), (x, target)


class Branches(nn.Module):
    """Diamonds, an operator with several results, a list of operands, a tensor that is read twice by one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x))
        left, right = self.b(h).chunk(2, 1)
        joined = self.norm(torch.cat([right, left * left], 1) + h)
        return joined.sigmoid()


def by_autograd(model, loss, batch, data) -> dict[str, torch.Tensor]:
    """The adjoint of each node: the captured forward, run in plain PyTorch, differentiated by torch.autograd."""
    graph = mg.capture(lambda *b: loss(model(*b[:-1]), b[-1]), *batch)
    # capture names its nodes by the operators, which the page's graph has in the same order
    values: dict[fx.Node, torch.Tensor] = {}
    for node, tensor in zip(graph.placeholders, graph.bind(batch, {}), strict=True):
        values[node] = tensor.detach().requires_grad_(tensor.is_floating_point())
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = node.target(*args, **kwargs)
    operators = [n for n in data["nodes"] if n["kind"] == "operator"]
    assert [n["op"] for n in operators] == [target_name(n.target) for n in graph.nodes]
    shown = [(n["name"], values[m]) for n, m in zip(operators, graph.nodes, strict=True)]
    shown = [(n, v) for n, v in shown if isinstance(v, torch.Tensor) and v.requires_grad]
    grads = torch.autograd.grad(values[graph.results[0]], [v for _, v in shown], allow_unused=True)
    return {name: g for (name, _), g in zip(shown, grads, strict=True) if g is not None}


@pytest.mark.parametrize("name", ["xor", "branches"])
def test_every_adjoint_is_that_of_autograd(name):
    torch.manual_seed(0)
    model, loss, batch = xor() if name == "xor" else (Branches().double(), F.mse_loss, None)
    batch = batch or (torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64))
    data, *_ = collect(subject(model, batch, {}, loss))
    theirs = by_autograd(model, loss, batch, data)
    compared = 0
    for node in data["nodes"]:
        if node["kind"] == "operator" and node.get("adjoint") and node["name"] in theirs:
            ours = torch.tensor(node["adjoint"]["numbers"], dtype=torch.float64)
            torch.testing.assert_close(ours, theirs[node["name"]].reshape(-1), rtol=1e-12, atol=1e-14)
            compared += 1
    assert compared >= (5 if name == "xor" else 12)


def test_contributions_add_up_to_the_adjoint():
    torch.manual_seed(0)
    batch = (torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64))
    data, *_ = collect(subject(Branches().double(), batch, {}, F.mse_loss))
    several = [n for n in data["nodes"] if len(n.get("contributions", [])) > 1 and n.get("adjoint")]
    assert several
    for node in several:
        parts = [c["value"]["numbers"] for c in node["contributions"]]
        assert [sum(x) for x in zip(*parts, strict=True)] == pytest.approx(node["adjoint"]["numbers"], abs=1e-15)


def test_gradients_are_those_of_differentiate_to_the_last_bit():
    model, loss, batch = xor()
    data, *_ = collect(subject(model, batch, {}, loss))
    _, gradients = mg.differentiate(mg.capture(lambda x, t: loss(model(x), t), *batch))(*batch)
    by_label = {n["label"]: n for n in data["nodes"]}
    for name, gradient in gradients.items():
        assert by_label[name.removeprefix("model.")]["adjoint"]["numbers"] == gradient.reshape(-1).tolist()


def test_the_update_is_that_of_sgd():
    model, loss, batch = xor()
    data, *_ = collect(subject(model, batch, {}, loss))
    optimizer = torch.optim.SGD(model.parameters(), lr=data["update"]["rate"])
    loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
    named = {n: p.detach().reshape(-1).tolist() for n, p in model.named_parameters()}
    for update in data["update"]["of"]:
        assert update["value"]["numbers"] == pytest.approx(named[data["nodes"][update["node"]]["label"]], abs=1e-15)
    assert len(data["update"]["of"]) == 4


def test_products_along_the_paths_add_up_to_autograd():
    model, loss, batch = xor()
    data, *_ = collect(subject(model, batch, {}, loss))
    after: dict[tuple[int, int], list] = {}
    for edge in data["local"]:
        for j, i, value in edge["entries"]:
            after.setdefault((edge["by"], i), []).append(((edge["of"], j), value))

    def total(element) -> float:
        return 1.0 if element == (data["loss"], 0) else sum(x * total(e) for e, x in after.get(element, []))

    loss(model(batch[0]), batch[1]).backward()
    parameters = dict(model.named_parameters())
    for k in data["wrt"]:
        theirs = parameters[data["nodes"][k]["label"]].grad.reshape(-1).tolist()
        assert [total((k, i)) for i in range(len(theirs))] == pytest.approx(theirs, abs=1e-14)


def test_the_protocol_asks_each_question_once_and_the_naive_one_again_and_again():
    model, loss, batch = xor()
    data, *_ = collect(subject(model, batch, {}, loss))
    asked = [node for kind, node in data["events"] if kind == 0]
    assert len(asked) == len(set(asked)) == data["summary"]["active"]
    passes = sum(kind == 5 for kind, _ in data["naive"])
    assert sum(kind == 5 for kind, _ in data["events"]) == 7  # each operator's products are formed once
    assert passes > 7 and not any(kind in (1, 4) for kind, _ in data["naive"])
    assert (data["summary"]["naive"], data["summary"]["memoized"]) == ("18", 10)


def test_deep_graphs_are_asked_down_to_the_loss():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def deep(w):
        for _ in range(700):
            w = w.sin()
        return w.sum()

    data, *_ = collect(subject(deep, (w,), {}, None))
    assert data["order"] == "asked" and len(data["nodes"]) == 702
    (theirs,) = torch.autograd.grad(deep(w), w)
    assert data["nodes"][0]["adjoint"]["numbers"] == pytest.approx(theirs.tolist(), rel=1e-12)


def test_nothing_changes_in_the_model_and_its_generators():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch = (torch.randn(4, 3), torch.randn(4, 3))
    state = torch.get_rng_state()
    collect(subject(model, batch, {}, F.mse_loss))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_large_and_strange_tensors_are_summed_up_as_json():
    def strange(x, y):
        return (x / y).sum() + torch.arange(3.0).sum()

    x = torch.full((40, 50), 2.0, requires_grad=True)
    y = torch.ones(40, 50)
    y[0, 0] = 0
    data, *_ = collect(subject(strange, (x, y), {}, None))
    text = json.dumps(data, allow_nan=False)
    quotient = next(n for n in json.loads(text)["nodes"] if n["label"] == "div")["value"]
    assert quotient["notFinite"] == 1 and quotient["max"] == 2.0 and "numbers" not in quotient
    assert (quotient["maps"]["rows"], quotient["maps"]["columns"], quotient["maps"]["of"]) == (28, 28, 1)


def test_a_program_that_looks_at_values_is_shown_for_these():
    def f(x):
        return (x * 2).sum() if x.sum() > 0 else x.sum()

    data, *_ = collect(subject(f, (torch.ones(2, requires_grad=True),), {}, None))
    assert data["nodes"][0]["adjoint"]["numbers"] == [2.0, 2.0]
    assert not math.isnan(data["nodes"][data["loss"]]["value"]["numbers"][0])


class Odd(nn.Module):
    """What graphs have that are no chains of plain operators."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.lstm = nn.LSTM(3, 3)
        if what == "tied":
            self.b.weight = self.a.weight
        if what == "frozen":
            self.a.requires_grad_(False)

    def forward(self, x):
        h = self.a(x)
        if self.what == "function":
            h = Square.apply(h)
        elif self.what == "lstm":
            h = self.lstm(h)[0]
        elif self.what == "checkpoint":
            h = checkpoint(torch.tanh, h, use_reentrant=False)
        elif self.what == "in place":
            h = h.clone()
            h[:, 0] = h[:, 1] * 2
        elif self.what == "several results":
            h = h.topk(2, 1)[0] @ torch.linalg.qr(h[:2] @ h.T)[1][:, :3]
        return self.b(h)


@pytest.mark.parametrize("what", ["function", "lstm", "checkpoint", "in place", "several results", "tied", "frozen"])
def test_gradients_of_models_that_are_no_chain_are_those_of_autograd(what):
    torch.manual_seed(0)
    model, batch = Odd(what).double(), (torch.randn(4, 3).double(), torch.randn(4, 3).double())
    data, *_ = collect(subject(model, batch, {}, F.mse_loss))
    by_label = {n["label"]: n for n in data["nodes"]}
    F.mse_loss(model(batch[0]), batch[1]).backward()
    theirs = {n: p.grad.reshape(-1).tolist() for n, p in model.named_parameters() if p.grad is not None}
    for name, gradient in theirs.items():
        assert by_label[name]["adjoint"]["numbers"] == pytest.approx(gradient, rel=1e-9, abs=1e-12), name
    assert {data["nodes"][k]["label"] for k in data["wrt"]} >= set(theirs)


def test_what_formulas_leave_out_is_said():
    """A mean divides, a bias that is added to every row is summed back: numbers in the formula are right with that."""
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2).double(), (torch.randn(4, 3).double(), torch.randn(4, 2).double())
    data, *_ = collect(subject(model, batch, {}, nn.MSELoss()))
    by_label = {n["label"]: n for n in data["nodes"]}
    assert by_label["mse_loss"]["mean"] == 8 and by_label["addmm"]["stretched"]
    difference = (model(batch[0]) - batch[1]).detach().reshape(-1).tolist()
    assert by_label["addmm"]["adjoint"]["numbers"] == pytest.approx([2 * (1 / 8) * d for d in difference])
    classes, *_ = collect(subject(model, (batch[0], torch.tensor([0, 1, 1, 0])), {}, nn.CrossEntropyLoss()))
    assert next(n for n in classes["nodes"] if n["label"] == "nll_loss_forward")["mean"] == 0


def test_memory_that_nothing_was_written_to_is_no_number():
    """Dropout draws into an empty tensor: what happens to stand there is shown to nobody."""
    page = mg.explain(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.randn(2, 3), loss=lambda y: y.sum())
    empty = next(n for n in page.data["nodes"] if n["label"].startswith("empty"))
    assert empty["value"] is None
    assert all(n["value"] is not None for n in page.data["nodes"] if n is not empty)


def test_a_view_of_memory_that_nothing_was_written_to_is_no_number_either():
    def f(x):
        return (x * torch.empty(4).view(2, 2).fill_(2.0)).sum()

    nodes = {n["label"]: n["value"] for n in mg.explain(f, torch.ones(2, 2)).data["nodes"]}
    assert nodes["empty"] is nodes["view"] is None
    assert nodes["fill"]["numbers"] == [2.0] * 4 and nodes["sum_1"]["numbers"] == [8.0]


def test_folders_say_of_what_type_their_module_is_and_parameters_lie_in_the_forward_pass():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    page = mg.explain(model, torch.randn(2, 3), torch.randn(2, 3), loss=nn.MSELoss())
    assert {f["type"] for f in page.data["folders"] if f["label"] in ("0", "1")} >= {"Sequential"}
    whole = page.data["whole"]
    for node, place in zip(whole["nodes"], whole["places"], strict=True):
        while place is not None and whole["folders"][place]["parent"] is not None:
            place = whole["folders"][place]["parent"]
        if node["kind"] == "parameter":
            assert whole["folders"][place]["path"] == "forward", node["label"]

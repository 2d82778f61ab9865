"""``memograd explain``: one sample's gradients, from the graph to three witnesses, with every number on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from memograd.adjoint.activity import active_nodes, operands
from memograd.adjoint.products import count_products
from memograd.adjoint.recursion import entry_of
from memograd.explain.explanation import Edge, Explanation, Gradient
from memograd.explain.watch import Paths, jacobian, label, watched
from memograd.graph.graph import Graph
from memograd.graph.interpreter import evaluate
from memograd.graph.printing import target_name
from memograd.pipeline import capture, differentiate
from memograd.recipes import data
from memograd.recipes.models import SimpleNN

_STEP = 1e-6  # of the central differences


def explain_xor(sample: int = 1, seed: int = 5) -> Explanation:
    """The lecture's ``SimpleNN`` with the weights it starts from, one line of XOR, float64."""
    torch.manual_seed(seed)
    model = SimpleNN().double()
    xs, ys = data.xor(torch.float64)
    x, target = xs[sample : sample + 1], ys[sample : sample + 1]
    a, b = xs[sample].int().tolist()
    title = f"SimpleNN on {a} xor {b} = {int(target)}, initial weights of seed {seed}, float64"
    return explain(title, model, nn.BCELoss(), x, target)


def explain(title: str, model: nn.Module, criterion: nn.Module, x: torch.Tensor, target: torch.Tensor) -> Explanation:
    """Explain the gradients of ``criterion(model(x), target)`` for a small model."""

    def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return criterion(model(x), target)

    graph = capture(loss, x, target)
    sources = {i.name: graph.placeholder(i.name) for i in graph.inputs if i.kind == "parameter"}
    order = active_nodes(list(sources.values()), [graph.results[0]])
    with torch.no_grad():
        values = evaluate(graph, graph.bind((x, target), {}))
        recursion, transcript = watched(values, graph.results[0], set(order))
        for node in sources.values():
            recursion.adjoint(node)
        gradients = _gradients(graph, loss, (x, target), Paths(values, graph.results[0], set(order)))
        edges = [
            Edge(label(u), label(v), entry_of(u).formula, entry_of(u).file, jacobian(u, v, values).tolist())
            for u in order
            if u.op == "call_function"
            for v in dict.fromkeys(operands(u))
            if v in recursion.active
        ]
    names = [
        (label(n), i.name.removeprefix("model."), values[n])
        for n, i in zip(graph.placeholders, graph.inputs, strict=True)
    ]
    operators = [
        (label(n), target_name(n.target), [label(v) for v in n.all_input_nodes], values[n]) for n in graph.nodes
    ]
    return Explanation(title, names, operators, edges, transcript.events, gradients, count_products(graph))


def _gradients(graph: Graph, loss: Any, batch: tuple[torch.Tensor, ...], paths: Paths) -> list[Gradient]:
    _, ours = differentiate(graph)(*batch)
    parameters = graph.parameters
    with torch.enable_grad():
        autograd = torch.autograd.grad(loss(*batch), list(parameters.values()))
    differences = []
    for (name, parameter), other in zip(parameters.items(), autograd, strict=True):
        node = graph.placeholder(name)
        for i in range(parameter.numel()):
            products = [
                [(_element(u, j), _element(v, k), number) for u, j, v, k, number in path] for path in paths.of(node, i)
            ]
            mine, theirs = ours[name].reshape(-1)[i].item(), other.reshape(-1)[i].item()
            label = f"{name.split('.', 1)[-1]}{_index(parameter.shape, i)}"
            differences.append(Gradient(label, products, mine, theirs, _difference(loss, batch, parameter, i)))
    return differences


def _difference(loss: Any, batch: tuple[torch.Tensor, ...], parameter: torch.Tensor, i: int) -> float:
    """(L(p + h) - L(p - h)) / 2h, the weight put back."""
    flat = parameter.detach().view(-1)
    before = flat[i].item()
    flat[i] = before + _STEP
    up = loss(*batch).item()
    flat[i] = before - _STEP
    down = loss(*batch).item()
    flat[i] = before
    return (up - down) / (2 * _STEP)


def _element(node: fx.Node, i: int) -> str:
    return f"{label(node)}{_index(node.meta['val'].shape, i)}"


def _index(shape: torch.Size, i: int) -> str:
    """``[row, column]`` of flat position ``i``; nothing for a single number."""
    if not len(shape) or shape.numel() == 1:
        return ""
    position = []
    for size in reversed(shape):
        position.append(str(i % size))
        i //= size
    return f"[{','.join(reversed(position))}]"

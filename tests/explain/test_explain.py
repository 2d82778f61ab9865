"""`memograd explain`: its numbers against autograd, and what it shows."""

import json
import math

import pytest
import torch
from torch import nn

from memograd import NotDifferentiableError, capture
from memograd.explain.explain import explain, explain_xor
from memograd.explain.text import render
from memograd.explain.watch import jacobian
from memograd.graph.interpreter import evaluate


@pytest.mark.parametrize("sample", range(4))
def test_witnesses_and_products_agree(sample):
    explanation = explain_xor(sample=sample)
    assert len(explanation.gradients) == 9
    for g in explanation.gradients:
        assert g.ours == pytest.approx(g.autograd, abs=1e-14)
        assert g.differences == pytest.approx(g.autograd, abs=1e-7)
        assert sum(math.prod(x for _, _, x in p) for p in g.products) == pytest.approx(g.autograd, abs=1e-14)


def test_a_branch_gives_a_sum_of_products():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1), nn.Sigmoid()).double()
    x, target = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    first = explain("a branch", model, nn.BCELoss(), x, target).gradients[0]
    assert len(first.products) == 2
    assert sum(math.prod(x for _, _, x in p) for p in first.products) == pytest.approx(first.autograd, abs=1e-14)


def test_every_question_is_answered_once_and_hits_are_shown():
    events = explain_xor().events
    asked = [e.what for e in events if e.kind == "ask"]
    assert len(asked) == len(set(asked))
    assert sum(e.kind == "hit" for e in events) == 3


def test_text_fits_the_terminal_and_json_is_json():
    explanation = explain_xor(sample=1)
    text = render(explanation)
    assert max(map(len, text.splitlines())) <= 100
    assert "● in the table" in text and "18 products" in text and "10 products" in text
    assert json.loads(json.dumps(explanation.as_dict()))["products"] == {"naive": 18, "memoized": 10}


class Gamma(nn.Module):
    def forward(self, x):
        return torch.special.gammainc(x.exp(), torch.ones((), dtype=x.dtype))


def test_a_derivative_that_is_not_known_is_refused_by_name():
    model = nn.Sequential(nn.Linear(1, 1), Gamma()).double()
    x, target = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    with pytest.raises(NotDifferentiableError, match=r"gammainc.*no closed form"):
        explain("gamma", model, nn.MSELoss(), x, target)


def test_a_single_jacobian_is_refused_by_name():
    """Also where nothing was differentiated before."""
    graph = capture(lambda a, x: torch.special.gammainc(a, x), torch.ones(2), torch.ones(2))
    (gamma,) = graph.nodes
    values = evaluate(graph, [torch.ones(2), torch.ones(2)])
    with pytest.raises(NotDifferentiableError, match=r"gammainc.*no closed form"):
        jacobian(gamma, graph.placeholder("a"), values)
    assert jacobian(gamma, graph.placeholder("x"), values).shape == (2, 2)

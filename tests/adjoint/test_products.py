"""How many products the recursion forms, against ways through the graph that are walked one by one."""

import pytest
import torch

import memograd as mg


def walks(graph, sources, results):
    """The ways from a source towards a result, of any length: each forms one product, on its last edge."""

    def leads_there(node):
        return node in results or any(leads_there(u) for u in node.users if u.op == "call_function")

    def from_(node):
        slots = [u for u in node.users if u.op == "call_function" and leads_there(u) for v in u.args if v is node]
        return sum(1 + from_(u) for u in slots)

    return sum(from_(source) for source in sources)


def several(x, y):
    z = x.sin() * y
    return z * z, z.cos() + z, y.exp()


@pytest.mark.parametrize(
    "among", [["output_0"], ["output_1", "output_2"], ["output_2"], ["output_0", "output_1", "output_2"]]
)
def test_every_result_that_takes_a_cotangent_is_counted(among):
    graph = mg.capture(several, torch.randn(2), torch.randn(2))
    results = {r for o, r in zip(graph.outputs, graph.results, strict=True) if o.name in among}
    counts = mg.count_products(graph, ["x", "y"], cotangents="output", among=among)
    assert counts.naive == walks(graph, graph.placeholders, results)


def test_the_naive_recursion_is_guarded_whichever_result_is_deep():
    def f(x):
        y = x
        for _ in range(8):
            y = y.sin() + y.cos()
        return x * 2, y

    graph = mg.capture(f, torch.randn(3))
    with pytest.raises(mg.ProductLimitError, match="limit"):
        mg.differentiate(graph, ["x"], memoize=False, cotangents="output", limit=100)


def test_an_input_that_requires_no_gradient_is_refused_by_both():
    graph = mg.capture(lambda x, y: (x * y).sum(), torch.randn(2).requires_grad_(), torch.randn(2))
    for question in (mg.count_products, mg.differentiate):
        with pytest.raises(mg.GraphError, match="'y' was captured as an input that is not differentiated"):
            question(graph, ["y"])
    assert mg.count_products(graph) == mg.count_products(graph, ["x"])

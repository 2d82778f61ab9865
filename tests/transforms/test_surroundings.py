"""What stands around a transform (no_grad, inference mode, vmap and torch.func's other transforms)."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
T = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
CONTEXTS = {"plain": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def level(library, kind, f):
    """One transform of ``f``, a function of vectors, as a function of vectors."""
    if kind == "grad":
        return lambda x: library.grad(lambda y: (f(y) * T).sum())(x)
    if kind == "vjp":
        return lambda x: library.vjp(f, x)[1](T)[0]
    if kind == "jvp":
        return lambda x: library.jvp(f, (x,), (T,))[1]
    return lambda x: getattr(library, kind)(f)(x).sum(0)


def nested(library, kinds, contexts):
    """Transforms inside one another, each called in a context of its own; the innermost context is in the function."""

    def f(x):
        with CONTEXTS[contexts[-1]]():
            c = x**2
        return x.sin() * 2 + c if contexts[-1] == "inference" else x * c + x.sin()

    for kind, context in zip(reversed(kinds), reversed(contexts[:-1]), strict=True):
        transformed = level(library, kind, f)

        def f(x, inner=transformed, context=context):
            with CONTEXTS[context]():
                result = inner(x)
            return result * x

    return f


@pytest.mark.parametrize("kind", ["grad", "vjp", "jvp", "jacrev", "jacfwd"])
def test_the_context_of_the_caller_stays_outside_and_that_of_the_function_counts(kind):
    for outer, inner in itertools.product(CONTEXTS, repeat=2):
        theirs = "plain" if outer == "inference" else outer  # there torch.func gives zeros or fails before 2.12
        close(nested(mg, (kind,), (outer, inner))(X), nested(torch.func, (kind,), (theirs, inner))(X))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kinds", list(itertools.product(["grad", "jvp", "jacrev"], repeat=2)))
def test_no_grad_at_any_level_of_nested_transforms_stops_what_it_stops_in_torch_func(kinds):
    for contexts in itertools.product(["plain", "no_grad"], repeat=3):
        close(nested(mg, kinds, contexts)(X), nested(torch.func, kinds, contexts)(X))


def test_no_grad_is_about_reverse_mode_and_detach_about_both():
    def f(x):
        with torch.no_grad():
            c = x**2
        return (x * c * x.detach()).sum()

    close(mg.jvp(f, (X,), (T,)), torch.func.jvp(f, (X,), (T,)))
    close(mg.hessian(f)(X), torch.func.hessian(f)(X))
    close(mg.jacrev(mg.jacrev(f))(X), torch.func.jacrev(torch.func.jacrev(f))(X))


def test_tangents_pass_a_write_under_no_grad_and_adjoints_do_not():
    def whole(x):
        y = x.clone()
        with torch.no_grad():
            y.mul_(3)
        return (y**2).sum()

    def part(x):
        y = x.new_zeros(5)
        with torch.no_grad():
            y[1:4] = x * 2
        return (y**2 * x.sum()).sum()

    for f in (whole, part):
        close(mg.jvp(f, (X,), (T,)), torch.func.jvp(f, (X,), (T,)))
        close(mg.grad(f)(X), torch.func.grad(f)(X))
        close(mg.hessian(f)(X), torch.func.hessian(f)(X))


def test_results_are_ordinary_tensors_in_inference_mode():
    with torch.inference_mode():
        assert not mg.grad(lambda x: (x**2).sum())(X).is_inference()
        assert not mg.jacrev(torch.sin)(X).is_inference()


def test_a_mark_stops_pytorch_where_the_program_stopped_it():
    def stopped(x):
        return (x * x.detach() * x).sum()

    def overwritten(x):
        y = x.clone()
        with torch.no_grad():
            y.mul_(3)
        return (y**2).sum()

    for f in (stopped, overwritten):
        x = X.clone().requires_grad_()
        ours, theirs = mg.grad(f)(x), torch.func.grad(f)(x)
        close(torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x))


def test_per_sample_gradients_are_captured_for_one_sample_and_run_on_the_batch():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double()
    parameters = dict(model.named_parameters())
    x, y = torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.randint(0, 2, (5,))

    def loss(p, x, y):
        logits = torch.func.functional_call(model, p, (x.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, y.unsqueeze(0))

    ours = torch.func.vmap(mg.grad(loss), (None, 0, 0))(parameters, x, y)
    theirs = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    close(ours, theirs)
    total = sum((g**2).sum() for g in ours.values())
    expected = sum((g**2).sum() for g in theirs.values())
    close(torch.autograd.grad(total, model.parameters()), torch.autograd.grad(expected, model.parameters()))


@pytest.mark.parametrize("in_dim", [0, 1])
def test_what_the_function_closes_over_may_be_a_batch(in_dim):
    zs = torch.randn(3, 3, dtype=torch.float64)

    def both(library):
        return torch.func.vmap(lambda z: library.grad(lambda x: (x.sin() * z).sum() * z.sum())(X), in_dim)(zs)

    close(both(mg), both(torch.func))


def test_vmap_may_stand_on_either_side_and_in_between():
    def f(x):
        return (x.sin() * x[0]).sum()

    xs = torch.randn(2, 4, 3, dtype=torch.float64)
    vmap = torch.func.vmap
    close(vmap(vmap(mg.grad(f)))(xs), vmap(vmap(torch.func.grad(f)))(xs))
    close(
        mg.grad(lambda x: vmap(mg.grad(f))(x).pow(2).sum())(xs[0]),
        mg.grad(lambda x: sum(mg.grad(f)(r).pow(2).sum() for r in x))(xs[0]),
    )
    close(vmap(mg.hessian(f))(xs[0]), vmap(torch.func.hessian(f))(xs[0]))
    close(vmap(mg.vjp(torch.sin, X)[1])(xs[0]), vmap(torch.func.vjp(torch.sin, X)[1])(xs[0]))


def test_transforms_of_torch_func_go_through_ours():
    def f(x):
        return (x.sin() * x[0]).sum()

    close(
        torch.func.grad(lambda x: mg.grad(f)(x).pow(2).sum())(X),
        torch.func.grad(lambda x: torch.func.grad(f)(x).pow(2).sum())(X),
    )
    close(torch.func.jvp(mg.grad(f), (X,), (T,)), torch.func.jvp(torch.func.grad(f), (X,), (T,)))
    close(torch.func.jacfwd(mg.grad(f))(X), torch.func.hessian(f)(X))


def test_dropout_in_a_batch_draws_as_vmap_was_told():
    def f(x):
        return nn.functional.dropout(x, 0.5).sum()

    xs = torch.ones(2, 1000)
    drawn = torch.func.vmap(mg.grad(f), randomness="different")(xs)
    assert set(drawn.unique().tolist()) == {0.0, 2.0} and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(mg.grad(f))(xs)


def test_operators_that_read_memory_as_it_lies_are_refused_in_a_batch():
    def f(x):
        return x.as_strided((2, 2), (1, 1)).pow(2).sum()

    close(
        mg.jacrev(lambda x: x.as_strided((2, 2), (1, 1)))(X),
        torch.func.jacrev(lambda x: x.as_strided((2, 2), (1, 1)))(X),
    )
    with pytest.raises(mg.CaptureError, match="as it lies"):
        torch.func.vmap(mg.grad(f))(torch.randn(4, 3))


def test_values_cannot_decide_inside_vmap():
    def f(x):
        return x.sum() if x.sum() > 0 else -x.sum()

    close(mg.grad(f)(X), torch.func.grad(f)(X))
    close(torch.func.grad(lambda x: mg.grad(f)(x).mul(x).sum())(X), torch.func.grad(f)(X))
    with pytest.raises(mg.CaptureError, match="vmap"):
        torch.func.vmap(mg.grad(f))(torch.randn(4, 3))


def test_a_graph_of_make_fx_holds_the_derivative():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(mg.jacrev(lambda x: x.sin() * x[0]))(X)
    close(graph(T), torch.func.jacrev(lambda x: x.sin() * x[0])(T))


def test_saved_tensor_hooks_are_refused_in_reverse_mode():
    def f(x):
        with torch.autograd.graph.save_on_cpu():
            return (x**2).sum()

    for call in (lambda: mg.grad(f)(X), lambda: mg.vjp(f, X)):
        with pytest.raises(mg.MemogradError, match="saved tensor hooks"):
            call()
    with torch.autograd.graph.save_on_cpu(), pytest.raises(mg.MemogradError, match="saved tensor hooks"):
        mg.grad(lambda x: (x**2).sum())(X)
    close(mg.jvp(f, (X,), (T,)), torch.func.jvp(f, (X,), (T,)))


def test_tensors_without_data_of_somebody_else_are_arguments_like_others():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = mode.from_tensor(X)
        assert mg.grad(lambda x: x.sin().sum())(x).shape == X.shape


@pytest.mark.slow
def test_torch_compile_steps_over_a_transform():
    def f(x):
        return mg.grad(lambda y: (y.sin() * y).sum())(x * 2) + 1

    compiled = torch.compile(f, backend="eager")
    close(compiled(X), f(X))
    close(torch.compile(mg.jacrev(torch.sin), backend="eager")(X), mg.jacrev(torch.sin)(X))

"""``grad``, ``grad_and_value``, ``value_and_grad`` against torch.func."""

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def f(x):
    return (x.sin() * x[0]).sum()


def test_value_and_gradient_come_in_either_order():
    close(mg.grad_and_value(f)(X), torch.func.grad_and_value(f)(X))
    close(mg.value_and_grad(f)(X), torch.func.grad_and_value(f)(X)[::-1])
    pair = lambda x: (f(x), x.cos())  # noqa: E731
    close(mg.grad_and_value(pair, has_aux=True)(X), torch.func.grad_and_value(pair, has_aux=True)(X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mg.grad(f, argnums=())(X), "non-empty"),
        (lambda: mg.grad(f, argnums=[0])(X), "int or Tuple"),
        (lambda: mg.grad(f, argnums=("0",))(X), "must be int"),
        (lambda: mg.grad(f, argnums=(0, -1))(X), "unique"),
        (lambda: mg.grad(f, argnums=-2)(X), "but only 1 positional"),
        (lambda: mg.grad(lambda x: (x * 1j).sum())(X), "one real number"),
        (lambda: mg.grad(lambda x: x[:1])(X), "scalar Tensor"),
        (lambda: mg.grad(lambda x: None)(X), "non-empty output"),
        (lambda: mg.grad(lambda x: 1.0)(X), "only tensors"),
        (lambda: mg.grad(lambda x: (f(x), x))(X), "return a Tensor"),
        (lambda: mg.grad(lambda x: [f(x), x], has_aux=True)(X), "output of function f should be a tuple"),
    ],
)
def test_what_torch_func_refuses_is_refused_by_the_same_name(call, message):
    with pytest.raises(mg.GraphError, match=message):
        call()


def test_an_empty_pytree_has_an_empty_gradient():
    assert mg.grad(lambda p, x: f(x))({}, X) == {} == torch.func.grad(lambda p, x: f(x))({}, X)


def test_a_number_may_be_formatted_in_the_function():
    def g(x):
        loss = f(x)
        seen.append(f"{loss:.3f}")
        return loss

    seen = []
    close(mg.grad(g)(X), torch.func.grad(f)(X))
    assert seen[-1] == f"{f(X).item():.3f}"


def test_autograd_goes_on_from_the_gradient():
    x = X.clone().requires_grad_()
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 1)).double()

    def penalty(gradient):
        return (gradient(lambda x: model(x).sum())(x) ** 2).sum()

    leaves = [x, *model.parameters()]
    ours = torch.autograd.grad(penalty(mg.grad), leaves, materialize_grads=True)
    close(ours, torch.autograd.grad(penalty(torch.func.grad), leaves, materialize_grads=True))


def test_a_gradient_penalty_goes_through_batch_norm_in_train_mode():
    """Autograd remembers the running statistics that the graph read, and they are written to."""
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    mg.grad(lambda x: ours(x).pow(2).sum())(x).pow(2).sum().backward()
    (gradient,) = torch.autograd.grad(theirs(x).pow(2).sum(), x, create_graph=True)
    expected = torch.autograd.grad(gradient.pow(2).sum(), [x, *theirs.parameters()], allow_unused=True)
    got = [x.grad, *(p.grad for p in ours.parameters())]
    close(got, [torch.zeros_like(g) if e is None else e for g, e in zip(got, expected, strict=True)])
    close(ours.state_dict(), theirs.state_dict())


def test_a_tensor_that_is_closed_over_cannot_be_written_to_by_way_of_the_argument():
    captured = torch.zeros(3, dtype=torch.float64)

    def g(x):
        captured.copy_(x)
        return (x * captured).sum()

    with pytest.raises(mg.GraphError, match="mutate a captured Tensor"):
        mg.grad(g)(X)
    assert torch.equal(captured, torch.zeros_like(captured))


def test_a_batch_norm_inside_an_object_takes_its_statistics_in_every_order():
    """Nobody sees the module before it runs; what it writes to has no history."""

    class Task:
        def __init__(self):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh()).double()

        def loss(self, x):
            return self.model(x).pow(2).sum()

    ours, theirs = Task(), Task()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(theirs.loss(x), x, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction).sum(), x)
    close(mg.hvp(ours.loss, (x.detach(),), (direction,)), (product,))
    close(ours.model.state_dict(), theirs.model.state_dict())
    close(mg.grad(ours.loss)(x.detach()), gradient.detach())


@pytest.mark.parametrize("hidden", [torch.no_grad, torch.enable_grad])
def test_what_is_written_without_a_history_may_be_closed_over(hidden):
    """The write shows in what is read later, and not in the gradient."""

    def program():
        total = torch.ones(3, dtype=torch.float64)

        def g(x):
            with hidden():
                total.add_(x.detach() if torch.is_grad_enabled() else x)
            return (x * total).sum()

        return g, total

    (ours, total), (theirs, expected) = program(), program()
    gradient = mg.grad(ours)
    for _ in range(2):
        x = X.clone().requires_grad_()
        close(gradient(X), torch.autograd.grad(theirs(x), x)[0])
        close(total, expected)


def test_a_counter_that_is_closed_over_counts():
    calls = torch.zeros(())

    def g(x):
        calls.add_(1)
        return f(x)

    gradient = mg.grad(g)
    close(gradient(X), torch.func.grad(f)(X))
    close(gradient(X), torch.func.grad(f)(X))
    assert calls == 2


def test_a_transform_is_called_like_its_function_and_may_be_a_method():
    def energy(x):
        """The energy."""
        return f(x)

    assert mg.grad(energy).__name__ == "energy" and mg.grad(energy).__doc__ == "The energy."

    class Model:
        scale = 3.0
        force = mg.grad(lambda self, x: f(x) * self.scale, argnums=1)

    close(Model().force(X), 3 * torch.func.grad(f)(X))


def test_gradients_that_are_kept_have_memory_of_their_own():
    """The gradient of ``(a * b).sum()`` by ``a`` has the numbers of ``b``: a step in place must not change both."""
    ours, theirs = ([torch.ones(3), torch.full((3,), 2.0)] for _ in range(2))
    for _ in range(2):
        for grad, (a, b) in ((mg.grad, ours), (torch.func.grad, theirs)):
            by_a, by_b = grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(a, b)
            a -= 0.5 * by_a
            b -= 0.5 * by_b
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_a_gradient_that_is_kept_is_not_what_the_function_closes_over():
    weight, x = torch.zeros(3), torch.ones(3)
    gradient, kept = mg.grad(lambda x: (x * weight).sum()), []
    for _ in range(3):
        weight.add_(1)
        kept.append(gradient(x))
    assert [g.tolist() for g in kept] == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


def test_equal_gradients_are_two_tensors():
    weight = torch.ones(3)
    first, second = mg.grad(lambda a, b: ((a + b) * weight).sin().sum(), argnums=(0, 1))(torch.ones(3), torch.ones(3))
    before = second.clone()
    first.mul_(2)
    assert torch.equal(second, before)

"""The traps of capture, each against torch.autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import memograd as mg

F64 = torch.float64


def gradients(f, *args, modules=()):
    """(ours, autograd's) for all float arguments and module parameters of the scalar f."""
    joint = mg.differentiate(mg.capture(f, *args), _names(f, args, modules))
    _, ours = joint(*args)
    leaves = [a.clone().requires_grad_() for a in args if a.is_floating_point()]
    rest = iter(leaves)
    out = f(*[next(rest) if a.is_floating_point() else a for a in args])
    parameters = [p for m in modules for p in m.parameters()]
    theirs = torch.autograd.grad(out, leaves + parameters, allow_unused=True)
    return list(ours.values()), theirs


def _names(f, args, modules):
    graph = mg.capture(f, *args)
    inputs = [i.name for i in graph.inputs if i.kind == "input"]
    floats = [n for n, a in zip(inputs, args, strict=True) if a.is_floating_point()]
    return floats + [i.name for i in graph.inputs if i.kind == "parameter"]


def agree(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, autograd in zip(ours, theirs, strict=True):
        if autograd is None:
            assert mine is None or not mine.any()
        else:
            torch.testing.assert_close(mine, autograd, rtol=1e-10, atol=1e-12)


def detach(x):
    return (x * x.detach().sin()).sum()


def data(x):
    return (x * x.data).sum()


def no_grad(x):
    with torch.no_grad():
        scale = x.exp()
    return (x * scale).sum()


def in_place(x):
    y = x * 2
    y.mul_(x)
    y += 1
    return (y * y).sum()


def view_write(x):
    y = x * 2
    y[0] = x[1] * 3
    y.view(-1)[2:].mul_(x.sum())
    y[:, 1].add_(x[:, 0])
    return (y * y).sum()


def write_past_autograd(x):
    y = x * 3
    y.data.clamp_(max=0.5)
    return (y * x).sum()


def base_after_view(x):
    y = x * 1
    part = y[1]
    y.mul_(2)
    return (part * part).sum()


def write_to_input(x):
    x = x.clone()
    x.t().sub_(1)
    x.transpose(0, 1)[0].copy_(x[0, 0].expand(3))
    return (x**2).sum()


def diagonal_write(x):
    y = x * 1
    y.diagonal().mul_(2)
    y[::2, 0:1].add_(5)
    y.unsqueeze(0).permute(2, 0, 1)[1].neg_()
    return (y * y).sum()


def out_argument(x):
    y = torch.empty_like(x)
    torch.sin(x.detach(), out=y)
    return (x * y).sum()


@pytest.mark.parametrize(
    "f",
    [
        detach,
        data,
        no_grad,
        in_place,
        view_write,
        write_past_autograd,
        base_after_view,
        write_to_input,
        diagonal_write,
        out_argument,
    ],
)
def test_stops_and_mutation(f):
    x = torch.randn(3, 2, dtype=F64)
    agree(*gradients(f, x))


def test_parameters_of_a_closure_are_parameters():
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=F64)
    joint = mg.differentiate(mg.capture(lambda x: model(x).pow(2).sum(), x))
    value, ours = joint(x)
    loss = model(x).pow(2).sum()
    loss.backward()
    torch.testing.assert_close(value, loss.detach())
    assert set(ours) == {"model.weight", "model.bias"}
    torch.testing.assert_close(ours["model.weight"], model.weight.grad)


def test_bare_parameter_of_a_closure():
    w = torch.randn(3, dtype=F64, requires_grad=True)
    joint = mg.differentiate(mg.capture(lambda x: (w * x).sum(), torch.randn(3, dtype=F64)))
    x = torch.randn(3, dtype=F64)
    assert torch.equal(joint(x)[1]["w"], x)


def test_tied_weights_get_one_summed_gradient():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).tanh()).pow(2).sum()

    model = Tied().double()
    x = torch.randn(2, 3, dtype=F64)
    joint = mg.differentiate(mg.capture(model, x))
    _, ours = joint(x)
    model(x).backward()
    assert list(ours) == ["a.weight"]
    torch.testing.assert_close(ours["a.weight"], model.a.weight.grad, rtol=1e-12, atol=0)
    assert joint.placeholder("b.weight") is joint.placeholder("a.weight")


def test_unused_parameters_are_named():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x):
            return self.used(x).sum()

    joint = mg.differentiate(mg.capture(Partly(), torch.randn(1, 2)))
    assert joint.unused == ("unused.weight", "unused.bias")
    assert joint(torch.randn(1, 2))[1]["unused.weight"] is None


def test_batchnorm_statistics_are_written_once():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    twin = copy.deepcopy(model)
    x = torch.randn(5, 3, dtype=F64)
    graph = mg.capture(model, x)
    assert torch.equal(model[1].running_mean, torch.zeros(4, dtype=F64)), "capturing must not run the model"
    for _ in range(3):
        torch.testing.assert_close(graph(x), twin(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var, rtol=1e-12, atol=1e-12)
    assert model[1].num_batches_tracked == 3


def test_dropout_draws_once_and_as_pytorch_does():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).double()
    x = torch.randn(4, 8, dtype=F64)
    joint = mg.differentiate(mg.capture(lambda x: model(x).pow(2).sum(), x))
    torch.manual_seed(3)
    _, ours = joint(x)
    torch.manual_seed(3)
    model(x).pow(2).sum().backward()
    torch.testing.assert_close(ours["model.0.weight"], model[0].weight.grad, rtol=1e-12, atol=1e-12)


def test_vjp_remembers_the_mask():
    x = torch.ones(1000, dtype=F64)
    value, pull = mg.vjp(lambda x: nn.functional.dropout(x, 0.5) * x, x)
    assert torch.equal(pull(torch.ones_like(x))[0], 2 * value)


def test_autocast_is_kept():
    model = nn.Linear(8, 8)
    x = torch.randn(4, 8)

    def f(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float().pow(2).sum()

    value, ours = mg.differentiate(mg.capture(f, x))(x)
    loss = f(x)
    loss.backward()
    torch.testing.assert_close(value, loss.detach(), rtol=0, atol=0)
    torch.testing.assert_close(ours["model.weight"], model.weight.grad, rtol=1e-2, atol=1e-2)
    assert ours["model.weight"].dtype == torch.float32


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return -g


class Double(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * 2


bound = Double.apply


@pytest.mark.parametrize("apply", [Reverse.apply, bound])
def test_custom_function_shows_in_the_graph(apply):
    graph = mg.capture(lambda x: apply(x).sum(), torch.randn(3))
    assert any(name in graph.code for name in ("Reverse", "Double"))
    torch.testing.assert_close(mg.differentiate(graph)(torch.ones(3))[1]["x"].abs(), apply(torch.ones(3)))


def test_custom_function_off_the_path_is_fine():
    joint = mg.differentiate(mg.capture(lambda x: (bound(x.detach()) * x).sum(), torch.randn(3)))
    x = torch.randn(3)
    torch.testing.assert_close(joint(x)[1]["x"], 2 * x)


def test_control_flow_on_values_is_a_loud_error():
    def f(x):
        return x.sin() if x.sum() > 0 else x.cos()

    with pytest.raises(mg.CaptureError, match=r"test_capture\.py:\d+.*value"):
        mg.capture(f, torch.randn(3))


def test_an_error_of_the_program_says_where():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 1))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as error:
        mg.capture(model, torch.randn(2, 3))
    assert not isinstance(error.value, mg.MemogradError)  # it is what PyTorch raises
    assert "in module '1'" in "".join(error.value.__notes__)


def test_provenance_of_each_node():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    graph = mg.capture(lambda x: model(x).sum(), torch.randn(2, 3))
    assert {n.meta["module"] for n in graph.nodes} == {"model.0", "model.1", ""}
    assert all("test_capture.py" in n.meta["source"] for n in graph.nodes)


class Pair:
    def __init__(self, left, right):
        self.left, self.right = left, right


def test_containers_registered_without_keys_are_arguments_like_others():
    pytree.register_pytree_node(Pair, lambda p: ([p.left, p.right], None), lambda leaves, _: Pair(*leaves))
    try:
        x, y = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
        f = lambda p, scale: (p.left.sin() * p.right * scale["by"]).sum()  # noqa: E731
        ours, theirs = (grad(f)(Pair(x, y), {"by": y}) for grad in (mg.grad, torch.func.grad))
        for side in ("left", "right"):
            torch.testing.assert_close(getattr(ours, side), getattr(theirs, side), rtol=1e-12, atol=1e-14)
        names = [i.name for i in mg.capture(f, Pair(x, y), scale={"by": y}).inputs]
        assert names == ["p.0", "p.1", "scale.by"]
    finally:
        pytree._deregister_pytree_node(Pair)


def test_wrong_arguments_are_refused_by_name():
    graph = mg.capture(lambda x, scale: (x * scale).sum(), torch.randn(3), torch.randn(3))
    with pytest.raises(mg.CaptureError, match="'scale' has shape"):
        graph(torch.randn(3), torch.randn(4))
    with pytest.raises(mg.CaptureError, match="float64"):
        graph(torch.randn(3), torch.randn(3).double())


def test_pytrees_and_baked_values():
    def f(batch, power):
        return {"loss": (batch["x"] ** power).sum(), "power": power}

    graph = mg.capture(f, {"x": torch.ones(3)}, 2)
    out = graph({"x": torch.full((3,), 2.0)}, 2)
    assert out["loss"] == 12 and out["power"] == 2
    with pytest.raises(mg.CaptureError, match="power"):
        graph({"x": torch.ones(3)}, 3)


def test_code_is_runnable_python():
    graph = mg.differentiate(mg.capture(lambda x: (x.sin() * x).sum(), torch.randn(3)))
    scope = {}
    exec(graph.code, scope)
    x = torch.randn(3)
    torch.testing.assert_close(scope["graph"](x)[1], x.sin() + x * x.cos())
    assert "adjoint of sin" in graph.code and "test_capture.py" in graph.code


def test_writes_to_an_argument_reach_the_caller():
    def f(x, count):
        count.add_(1)
        return (x * count).sum()

    x, count = torch.ones(3), torch.zeros(3)
    graph = mg.capture(f, x, count)
    assert graph(x, count) == 3 and torch.equal(count, torch.ones(3))
    assert torch.equal(mg.grad(f)(x, count), torch.full((3,), 2.0)) and torch.equal(count, torch.full((3,), 2.0))


def test_as_strided_into_the_memory_around_a_view_is_refused():
    def f(x):
        return x.as_strided((3,), (1,), 4).pow(2).sum()

    gradient, base = mg.grad(f), torch.randn(8)
    torch.testing.assert_close(gradient(base[:7]), torch.func.grad(f)(base[:7]))
    with pytest.raises(mg.CaptureError, match="offset"):
        gradient(base[1:])


def test_a_module_converted_since_its_capture():
    """Another memory layout is copied into the one that was traced; another dtype is an error."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(2, 3, 2, 2, dtype=torch.float64))

        def forward(self, x):
            # on a contiguous weight, contiguous() is no operator of the graph, and a view may follow
            return (torch.conv2d(x, self.weight).sum() * self.weight.contiguous().view(-1).sin()).sum()

    model, x = Model(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    graph = mg.differentiate(mg.capture(model, x))
    _, before = graph(x)
    model.weight.data = model.weight.data.to(memory_format=torch.channels_last)  # as model.to(memory_format=...)
    assert not model.weight.is_contiguous()
    _, after = graph(x)
    torch.testing.assert_close(after["weight"], before["weight"], check_stride=False)
    model.float()
    with pytest.raises(mg.CaptureError, match="captured with"):
        graph(x)


def test_masks_of_dropout_behind_a_transpose_in_a_capture_on_values():
    """They are drawn in the order in which the memory lies: fresh memory keeps its strides."""

    def f(x):
        if x.sum() > 1e9:
            raise ValueError
        return (torch.nn.functional.dropout(x.transpose(1, 2), 0.5) * weights).sum()

    x = torch.randn(3, 4, 5, dtype=torch.float64)
    weights = torch.randn(3, 5, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(0)
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.manual_seed(0)
    torch.testing.assert_close(mg.grad(f)(x), expected)


def test_operators_know_which_calls_of_modules_they_run_in():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Sequential(nn.Tanh())

        def forward(self, x):
            return self.cell(self.cell(x).exp())

    graph = mg.capture(Twice(), torch.randn(2))
    assert [n.meta["calls"] for n in graph.nodes] == [
        (("", 0), ("cell", 0), ("cell.0", 0)),
        (("", 0),),
        (("", 0), ("cell", 1), ("cell.0", 1)),
    ]

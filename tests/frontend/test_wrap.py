"""A wrapped model in loops as people write them. Witness: the same model, not wrapped, in the same loop."""

import copy
import dataclasses
import gc
import inspect
import pickle
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import memograd as mg
from memograd.frontend.forward import Wrapped
from memograd.rules import registry

F64 = torch.float64


@dataclass
class Outcome:
    hidden: torch.Tensor
    name: str


class Net(nn.Module):
    """Dropout, BatchNorm, a buffer, several results in several containers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x, scale=1.0, *, flip=False):
        h = self.drop(self.norm(self.first(x)).tanh())
        with torch.no_grad():
            self.seen += h.mean(0)
        out = self.last(h) * scale
        self.penalty = h.square().mean()
        return {
            "out": -out if flip else out,
            "parts": (out[:, 0], [out.detach(), out.argmax(1)]),
            "same": x,
            "outcome": Outcome(h.exp(), "net"),
        }


def pair(make: Callable[[], Any] = Net, **options) -> tuple[Any, Any]:
    """A wrapped model and its twin."""
    torch.manual_seed(0)
    theirs = make().double()
    return mg.wrap(copy.deepcopy(theirs), **options), theirs


def inputs(*shape, seed=0, grad=False):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def agree(ours, theirs):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def both(use, make: Callable[[], nn.Module] = Net, **options) -> Any:
    """``use(model)`` for a wrapped model and for its twin, from the same random numbers: what it returns must agree."""
    models = pair(make, **options)
    results = []
    for model in models:
        torch.manual_seed(1)
        results.append(use(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-10)
    agree(*models)
    return models[0]


LOSSES = {
    "one result": lambda m, r: r["out"].square().sum(),
    "a view of it": lambda m, r: r["parts"][0].sin().sum(),
    "two results": lambda m, r: r["out"].sum() + r["parts"][0].exp().sum(),
    "a field of a dataclass": lambda m, r: r["outcome"].hidden.sum(),
    "an attribute": lambda m, r: m.penalty * 3,
    "an attribute and a result": lambda m, r: m.penalty + r["out"].sum(),
    "all": lambda m, r: r["out"].sum() + m.penalty + r["outcome"].hidden.sum() + r["parts"][0].sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_whatever_a_loss_is_made_of(loss):
    def use(model):
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for k in range(6):
            optimizer.zero_grad()
            value = loss(model, model(inputs(4, 3, seed=k)))
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        return torch.stack(losses)

    both(use)


def test_losses_of_another_kind_at_each_step():
    """What has to be remembered is not known beforehand."""

    def use(model):
        for k, loss in enumerate([*LOSSES.values(), *reversed(LOSSES.values())]):
            loss(model, model(inputs(4, 3, seed=k))).backward()

    both(use)


def test_results_are_what_the_model_returns():
    model = pair()[0]
    x = inputs(4, 3)
    out = model(x)
    assert out["same"] is x and isinstance(out["outcome"], Outcome) and out["outcome"].name == "net"
    assert out["out"].requires_grad and not out["parts"][1][0].requires_grad
    assert out["parts"][1][1].dtype == torch.int64 and not model.seen.requires_grad


def test_two_hundred_steps():
    def use(model):
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
        for k in range(200):
            model.train(k % 10 != 9)
            optimizer.zero_grad()
            out = model(inputs(2 + k % 3, 3, seed=k), flip=k % 2 == 0)["out"]
            (out.square().mean() + model.penalty).backward()
            clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            schedule.step()

    model = both(use)
    assert len(model.forward.captures) == 9  # three sizes; flipped, not flipped, and in eval mode not flipped


class TestArguments:
    def test_keywords_and_numbers(self):
        def use(model):
            for scale, flip in ((1.0, False), (2.0, True), (1.0, True), (2.0, True)):
                model(inputs(4, 3), scale, flip=flip)["out"].sum().backward()

        both(use)

    def test_inputs_that_require_gradients(self):
        def use(model):
            x = inputs(4, 3, grad=True)
            model(x * 2)["out"].sum().backward()
            y = inputs(4, 3, grad=True)
            (model(y)["same"] ** 3).sum().backward()
            return x.grad, y.grad

        both(use)

    def test_gradients_for_inputs_alone(self):
        def use(model):
            x = inputs(4, 3, grad=True)
            return torch.autograd.grad(model(x)["out"].sum(), x)

        both(use)


class TestParameters:
    def test_frozen_and_later_not(self):
        def use(model):
            for frozen in (True, False, True):
                for p in model.first.parameters():
                    p.requires_grad_(not frozen)
                model(inputs(4, 3))["out"].sum().backward()

        both(use)

    def test_all_frozen(self):
        def use(model):
            model.requires_grad_(False)
            out = model(inputs(4, 3))["out"]
            assert not out.requires_grad
            return out

        both(use)

    def test_another_parameter_in_its_place(self):
        def use(model):
            model(inputs(4, 3))["out"].sum().backward()
            model.last = nn.Linear(5, 2).double()
            model.first.weight = nn.Parameter(torch.ones(5, 3, dtype=F64))
            model.first.bias.data = torch.ones(5, dtype=F64)
            model(inputs(4, 3))["out"].sum().backward()

        both(use)

    def test_another_dtype(self):
        def use(model):
            model(inputs(4, 3))["out"].sum().backward()
            model.zero_grad()
            model.float()
            model(inputs(4, 3).float())["out"].sum().backward()
            model.double()

        ours, theirs = pair()
        for model in (ours, theirs):
            torch.manual_seed(1)
            use(model)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)

    def test_functional_call_with_other_weights(self):
        """MAML's inner step: weights that have a history."""

        def use(model):
            x, names = inputs(4, 3), dict(model.named_parameters())
            gradients = torch.autograd.grad(model(x)["out"].square().sum(), list(names.values()), create_graph=True)
            fast = {n: p - 0.1 * g for (n, p), g in zip(names.items(), gradients, strict=True)}
            torch.func.functional_call(model, fast, (x,))["out"].square().sum().backward()

        both(use)

    def test_tied(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, x):
                return self.head(self.embed(x).tanh())

        both(lambda model: model(torch.tensor([1, 2, 2])).logsumexp(1).sum().backward(), Tied)


class TestBackward:
    def test_gradients_are_accumulated(self):
        def use(model):
            for k in range(4):
                (model(inputs(4, 3, seed=k))["out"].sum() / 4).backward()

        both(use)

    def test_graphs_are_retained(self):
        def use(model):
            loss = model(inputs(4, 3))["out"].square().sum()
            loss.backward(retain_graph=True)
            loss.backward()

        both(use)

    def test_a_graph_that_was_not_retained_is_gone(self):
        loss = pair()[0](inputs(4, 3))["out"].square().sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_two_forward_passes_before_one_backward_pass(self):
        def use(model):
            one, two = model(inputs(4, 3)), model(inputs(4, 3, seed=1))
            (one["out"] * two["out"]).sum().backward()

        both(use)

    def test_backward_passes_in_another_order(self):
        def use(model):
            one, two = (model(inputs(4, 3, seed=k))["out"].sum() for k in range(2))
            two.backward()
            one.backward()

        both(use)

    def test_a_parameter_that_was_written_to_meanwhile(self):
        ours, theirs = pair()
        for model in (ours, theirs):
            loss = model(inputs(4, 3))["out"].square().sum()
            with torch.no_grad():
                model.last.weight += 1
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()

    def test_hooks_on_parameters(self):
        def use(model):
            seen = []
            model.first.weight.register_hook(lambda g: g * 2)
            model.last.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
            for k in range(3):
                model(inputs(4, 3, seed=k))["out"].sum().backward()
            return seen

        both(use)

    def test_hooks_on_saved_tensors(self):
        packed = []

        def pack(t):
            packed.append(t)
            return t.numpy(force=True)

        ours, theirs = pair(check="never")
        for model in (ours, theirs):
            torch.manual_seed(1)
            packed.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
                loss = model(inputs(4, 3))["out"].square().sum()
            loss.backward()
            assert packed
        agree(ours, theirs)


class TestHooksOnModules:
    def test_forward_hooks_change_values(self):
        def use(model):
            x = inputs(4, 3)
            model(x)["out"].sum().backward()
            a = model.first.register_forward_hook(lambda m, args, out: out * 2)  # registered after the first call
            b = model.register_forward_pre_hook(lambda m, args: (args[0] + 1, *args[1:]))
            model(x)["out"].sum().backward()
            a.remove()
            model(x)["out"].sum().backward()
            b.remove()

        both(use)

    def test_full_backward_hooks_change_gradients(self):
        def use(model):
            x = inputs(4, 3)
            model(x)["out"].sum().backward()
            model.last.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
            model(x)["out"].sum().backward()

        both(use)

    def test_hooks_of_the_model_itself_run(self):
        def use(model):
            seen = []
            model.register_full_backward_hook(lambda m, gi, go: seen.extend(g for g in go if g is not None))
            model(inputs(4, 3, grad=True)).square().sum().backward()
            return seen

        both(use, lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh()))

    def test_hooks_that_only_look_at_gradients_see_each(self):
        seen = []
        for model in pair():
            norms = []
            model.last.register_full_backward_hook(lambda m, gi, go, norms=norms: norms.append(float(go[0].norm())))
            for k in range(3):
                torch.manual_seed(k)
                model(inputs(4, 3, seed=k))["out"].square().sum().backward()
            seen.append(norms)
        assert len(seen[1]) == 3 and seen[0] == pytest.approx(seen[1], rel=1e-12)


class TestModes:
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_no_gradients_are_asked_for(self, mode):
        def use(model):
            with mode():
                out = model(inputs(4, 3))["out"]
            assert not out.requires_grad
            model(inputs(4, 3))["out"].sum().backward()
            return out.clone()

        both(use)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype):
        torch.manual_seed(0)
        theirs = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.LayerNorm(4))
        ours = mg.wrap(copy.deepcopy(theirs))
        x = torch.randn(5, 8)
        for model in (ours, theirs):
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            for _ in range(3):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=dtype):
                    loss = F.cross_entropy(model(x), torch.arange(5) % 4)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=2e-2, atol=2e-3)

    def test_torch_func_goes_through(self):
        def use(model):
            model.eval()
            f = lambda x: torch.func.functional_call(model, dict(model.named_parameters()), (x,))["out"].sum()  # noqa: E731
            return torch.func.vmap(torch.func.grad(f))(inputs(4, 1, 3))

        ours, theirs = pair(lambda: _Plain())
        torch.testing.assert_close(use(ours), use(theirs))

    def test_torch_func_inside_the_model(self):
        """Its transforms allow no hooks on saved tensors, which the witness would put there."""

        def use(model):
            for k in range(2):
                model(inputs(4, 3, seed=k)).square().sum().backward()

        assert both(use, _Inner).forward.check_reason.startswith("agrees")

    def test_transforms_of_ours_and_steps_go_through(self):
        ours, theirs = pair(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
        x, y = inputs(4, 3), inputs(4, 1, seed=1)
        torch.testing.assert_close(mg.grad(lambda x: ours(x).sum())(x), mg.grad(lambda x: theirs(x).sum())(x))
        for model in (ours, theirs):
            step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
            step(x, y)
            assert step.check_reason.startswith("agrees")
        agree(ours, theirs)


class _Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return {"out": self.linear(x).tanh()}


class _Inner(nn.Module):
    """A gradient by ``torch.func`` in the forward pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x) * torch.func.vmap(torch.func.grad(lambda r: self.linear(r).tanh().sum()))(x).sum()


class TestNesting:
    def test_a_wrapped_part_of_a_model(self):
        theirs = nn.Sequential(_Layer(), _Layer()).double()
        ours: Any = copy.deepcopy(theirs)
        mg.wrap(ours[0])
        for model in (ours, theirs):
            torch.manual_seed(1)
            for k in range(3):
                model(inputs(4, 3, seed=k)).square().sum().backward()
        agree(ours, theirs)
        assert ours[0].forward.captures

    def test_wrapped_parts_of_a_wrapped_model(self):
        def use(model):
            for layer in model:
                mg.wrap(layer) if isinstance(model.forward, Wrapped) else None
            for k in range(3):
                model(inputs(4, 3, seed=k)).square().sum().backward()

        model = both(use, lambda: nn.Sequential(_Layer(), _Layer()))
        assert model.forward.captures and not model[0].forward.captures

    def test_under_a_checkpoint(self):
        def use(model):
            x = inputs(4, 3, grad=True)
            for _ in range(3):
                checkpoint(lambda x: model(x).square().sum(), x, use_reentrant=False).backward()
            return x.grad

        both(use, lambda: _Layer())


class _Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.linear(x).relu()) + x


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, mask):
        h = self.linear(x)
        if h.sum() > 0:
            h = h.exp()
        return h[mask].sum() + (h * torch.rand(())).mean()


class TestValues:
    def test_a_model_that_looks_at_values(self):
        def use(model):
            for k in range(12):
                model(inputs(4, 3, seed=k) + 9 * (-1) ** (k // 2), torch.arange(4) < 2 + k % 2).backward()

        model = both(use, Deciding)
        assert len(model.forward.captures) == 4
        assert "look 0 at a value saw" in " ".join(model.forward.captures)

    def test_errors_of_the_model_itself(self):
        class Strict(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(3, 2)

            def forward(self, x, table):
                return self.linear(x) * table["scale"]

        ours, theirs = pair(Strict)
        for model in (ours, theirs):
            with pytest.raises(KeyError):
                model(inputs(4, 3), {})
            with pytest.raises(RuntimeError, match="mat1 and mat2"):
                model(inputs(4, 2), {"scale": 2.0})
            model(inputs(4, 3), {"scale": 2.0}).sum().backward()
        agree(ours, theirs)

    def test_a_history_in_a_buffer_is_refused(self):
        class Keeps(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(3, 3)
                self.register_buffer("last", torch.zeros(4, 3))

            def forward(self, x):
                self.last.copy_(self.linear(x))  # pyright: ignore
                return self.last.sum()  # pyright: ignore

        with pytest.raises(mg.CaptureError, match=r"'self\.last'"):
            pair(Keeps)[0](inputs(4, 3))


class TestIdentity:
    def test_it_is_the_same_object(self):
        model = Net()
        keys, kind = list(model.state_dict()), type(model)
        assert mg.wrap(model) is model and type(model) is kind and list(model.state_dict()) == keys
        assert [n for n, _ in model.named_modules()] == [n for n, _ in Net().named_modules()]
        assert list(inspect.signature(model.forward).parameters) == ["x", "scale", "flip"]
        assert mg.unwrap(model) is model and "forward" not in vars(model)
        assert mg.unwrap(model) is model

    def test_a_forward_of_its_own_comes_back(self):
        model = nn.Linear(3, 2).double()
        own = lambda x: F.linear(x, model.weight) * 2  # noqa: E731
        model.forward = own  # pyright: ignore
        mg.wrap(model)
        model(inputs(4, 3)).sum().backward()
        torch.testing.assert_close(model.weight.grad[0], 2 * inputs(4, 3).sum(0))  # pyright: ignore
        assert mg.unwrap(model).forward is own

    @pytest.mark.parametrize(
        "again",
        [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: saved(m)],
        ids=["deepcopy", "pickle", "torch.save"],
    )
    def test_copies_are_wrapped_and_apart(self, again):
        model: Any = mg.wrap(nn.Sequential(OrderedDict(a=nn.Linear(3, 2))).double())
        model(inputs(4, 3)).sum().backward()
        model.zero_grad()
        other = again(model)
        assert other.forward.model is other
        other(inputs(4, 3)).sum().backward()
        assert model.a.weight.grad is None and other.a.weight.grad is not None

    def test_only_modules_are_wrapped(self):
        with pytest.raises(mg.GraphError, match=r"nn\.Module"):
            mg.wrap(lambda x: x)  # pyright: ignore
        with pytest.raises(mg.GraphError, match="check"):
            mg.wrap(nn.Linear(1, 1), check="often")  # pyright: ignore


def saved(model):
    import io

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class TestCheck:
    def test_it_says_how_it_came_out(self):
        model = pair()[0]
        assert model.forward.check_reason == "no backward pass was run yet"
        model(inputs(4, 3))["out"].sum().backward()
        assert model.forward.check_reason == "agrees with torch.autograd: 1 result and 6 gradients"

    @pytest.mark.parametrize("check", ["first", "always"])
    def test_a_wrong_rule_is_caught(self, check, monkeypatch):
        right: Any = registry._TABLE[torch.ops.aten.tanh.default]
        wrong = dataclasses.replace(right, function=lambda *args: right.function(*args) * 1.05)
        monkeypatch.setitem(registry._TABLE, torch.ops.aten.tanh.default, wrong)
        model = pair(check=check)[0]
        with pytest.raises(mg.GradientMismatchError, match=r"the gradient of 'self.(first|norm)"):
            model(inputs(4, 3))["out"].sum().backward()
        assert model.first.weight.grad is None


class TestSecondOrder:
    def test_a_gradient_penalty(self):
        def use(model):
            for k in range(3):
                x = inputs(4, 3, seed=k, grad=True)
                (g,) = torch.autograd.grad(model(x)["out"].sum(), x, create_graph=True)
                (g.norm(dim=1) - 1).square().mean().backward()

        both(use)

    def test_a_third_derivative(self):
        def use(model):
            x = inputs(4, 3, grad=True)
            out = model(x).sum()
            for _ in range(2):
                (g,) = torch.autograd.grad(out, x, create_graph=True)
                out = g.square().sum()
            out.backward()
            return x.grad

        both(use, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1)))


def deep():
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Dropout(0.1)) for _ in range(6)]
    return nn.Sequential(*blocks, nn.Linear(64, 4))


def peak(call):
    """The most bytes that ``call`` has allocated at any moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    alive = most = 0
    for event in seen.profiler.kineto_results.events():  # pyright: ignore
        if event.name() == "[memory]":
            alive += event.nbytes()  # pyright: ignore
            most = max(most, alive)
    return most


class TestNoGradient:
    """A parameter without a gradient and one with zeros are not the same to an optimizer."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x), self.b(x), self.b(x).sign() + self.a(torch.ones_like(self.b(x)) @ x.new_ones(2, 3))

    @pytest.mark.parametrize("budget", [None, "1MiB"])
    @pytest.mark.parametrize("used", [0, 1, 2])
    def test_decayed_weights(self, used, budget):
        def use(model):
            optimizer = optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
            for k in range(3):
                optimizer.zero_grad()
                model(inputs(4, 3, seed=k))[used].sum().backward()
                optimizer.step()

        both(use, self.Two, memory_budget=budget)

    @pytest.mark.parametrize("used", [0, 1, 2])
    def test_of_a_second_order(self, used):
        def use(model):
            x = inputs(4, 3, grad=True)
            out = model(x)[used].sum()
            gradients = torch.autograd.grad(out, [x, *model.parameters()], create_graph=True, allow_unused=True)
            return [torch.full((), 7.0) if g is None else g.detach() for g in gradients]

        both(use, self.Two)


class TestBudget:
    def test_it_is_held_with_the_same_numbers(self):
        ours, theirs = pair(deep, memory_budget="60%")
        x = inputs(1024, 64)
        for model in (ours, theirs):
            torch.manual_seed(1)
            for _ in range(2):
                model(x).sum().backward()
        agree(ours, theirs)
        plan = ours.forward.plan
        assert plan.again and plan.budget < plan.unplanned_bytes
        for model in (ours, theirs):
            model.zero_grad()
        outside = 64 + 1024 * 4 * 8  # the sum, and the cotangent made of its own
        assert peak(lambda: ours(x).sum().backward()) + plan.problem.resident <= plan.budget + outside
        assert peak(lambda: theirs(x).sum().backward()) + plan.problem.resident > plan.budget + outside

    def test_graphs_are_retained_and_gone(self):
        ours, theirs = pair(deep, memory_budget="60%")
        for model in (ours, theirs):
            torch.manual_seed(1)
            loss = model(inputs(512, 64)).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()
        agree(ours, theirs)

    @pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
    def test_whatever_a_loss_is_made_of(self, loss):
        def use(model):
            for k in range(3):
                loss(model, model(inputs(4, 3, seed=k))).backward()

        both(use, memory_budget="1MiB")

    def test_second_derivatives(self):
        def use(model):
            x = inputs(4, 3, grad=True)
            (g,) = torch.autograd.grad(model(x)["out"].sum(), x, create_graph=True)
            g.square().sum().backward()

        with pytest.warns(UserWarning, match="create_graph=True.*without a plan"):
            both(use, memory_budget="1MiB")

    def test_what_no_plan_covers_is_said_once(self):
        model = mg.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), memory_budget="1MiB")
        x = inputs(4, 3, grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(x).sum().backward()
        with pytest.warns(UserWarning, match="torch.autograd.grad there") as said:
            for _ in range(2):
                torch.autograd.grad(model(x).sum(), x, create_graph=True)
        assert len(said) == 1
        with pytest.warns(UserWarning, match="one after the other"):
            y = model(x)
            torch.autograd.grad(y, x, torch.eye(8, dtype=F64).reshape(8, 4, 2), is_grads_batched=True)

    def test_an_inner_derivative_of_the_model_itself_is_a_part_of_the_plan(self):
        class Forces(nn.Module):
            def __init__(self):
                super().__init__()
                self.energy = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

            def forward(self, x):
                return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

        ours, theirs = pair(Forces, memory_budget="80%")
        x = inputs(512, 3, grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for model in (ours, theirs):
                model(x).square().sum().backward()
        agree(ours, theirs)
        plan = ours.forward.plan
        assert plan.peak_bytes <= plan.budget < plan.unplanned_bytes

    def test_one_that_cannot_be_held(self):
        with pytest.raises(mg.BudgetInfeasibleError) as caught:
            pair(deep, memory_budget=1000)[0](inputs(32, 64))
        assert caught.value.floor_bytes > 1000


class Aliased(nn.Module):
    """What is returned is also saved, viewed, or a buffer that is written to."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))
        self.scale = 1.0

    def forward(self, x):
        self.count.add_(1)  # pyright: ignore
        h = self.linear(x).tanh()
        return h, h[:, 0], self.count, self.linear(x) * self.scale


WAYS = {"checked": {}, "unchecked": {"check": "never"}, "budget": {"memory_budget": "1MiB"}}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
class TestMemoryOfResults:
    def test_a_result_that_is_needed_is_written_to(self, options):
        for model in pair(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), **options):
            out = model(inputs(4, 3))
            out.mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.sum().backward()

    def test_a_result_that_is_not_needed_is_written_to(self, options):
        both(lambda model: model(inputs(4, 3))[3].mul_(2).square().sum().backward(), Aliased, **options)

    def test_one_of_two_views_is_written_to(self, options):
        h, first, *_ = pair(Aliased, **options)[0](inputs(4, 3))
        with pytest.raises(RuntimeError, match="is a view"):
            h.mul_(3)
            first.square().sum().backward()

    def test_a_buffer_that_is_returned_is_that_buffer(self, options):
        model = pair(Aliased, **options)[0]
        out = model(inputs(4, 3))
        assert out[2] is model.count
        out[0].sum().backward()

    def test_nothing_stays_of_a_call_without_a_backward_pass(self, options):
        model = pair(Aliased, **options)[0]
        gc.disable()
        try:
            for _ in range(2):
                gone = weakref.ref(model(inputs(4, 3))[3])
            assert gone() is None
        finally:
            gc.enable()

    def test_a_result_that_is_not_used_has_no_part(self, options):
        """Zero times the infinite derivative of a root at zero would be no number."""

        class Root(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.tensor([0.0, 4.0]))

            def forward(self):
                return self.w.sqrt(), self.w * 2

        def use(model):
            for _ in range(2):
                model()[1].sum().backward()

        both(use, Root, **options)

    def test_shallow_copies_have_parameters_of_their_own(self, options):
        def use(model):
            model(inputs(4, 3))
            other = copy.copy(model)
            other.scale = 3.0
            replica = model._replicate_for_data_parallel()
            replica._modules["linear"] = copy.deepcopy(model.linear).requires_grad_(False)
            replica.linear.weight.zero_()
            return [m(inputs(4, 3))[3].detach() for m in (other, replica, model)]

        both(use, Aliased, **options)


def test_a_backward_pass_under_autocast_raises_no_false_alarm():
    torch.manual_seed(0)
    model = mg.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    loss = model(torch.randn(5, 3)).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    assert model.forward.check_reason.startswith("agrees")  # pyright: ignore


class TestBackends:
    def test_inductor(self):
        def use(model):
            for k in range(2):
                x = inputs(4, 3, seed=k, grad=True)
                (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
                (model(x).square().sum() + g.square().sum()).backward()

        both(use, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), backend="inductor")

    def test_an_unknown_one(self):
        with pytest.raises(mg.BackendError, match="triton"):
            mg.wrap(nn.Linear(1, 1), backend="triton")


def test_two_models_in_two_threads():
    ours, theirs = zip(*[pair(_Layer) for _ in range(2)], strict=True)
    failures = []

    def work(k):
        try:
            for j in range(20):
                ours[k].eval()(inputs(3 + j % 3, 3, seed=j)).sum().backward()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for k in range(2):
        for j in range(20):
            theirs[k].eval()(inputs(3 + j % 3, 3, seed=j)).sum().backward()
        agree(ours[k], theirs[k])


class TestSizesOfBuffers:
    """What a forward resizes: PyTorch's own runs then; where only the first call does so, ours from the next on."""

    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("largest", torch.zeros(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            now, before = x.detach().abs().amax(0), self.get_buffer("largest")
            if not before.numel():
                before.resize_(now.shape)
                before.copy_(now)
            before.lerp_(now, 0.5)
            return self.linear(x / before)

    def test_that_of_the_first_call(self) -> None:
        ours, theirs = pair(self.Observed)
        for seed in range(4):
            x = inputs(4, 3, seed=seed)
            for model in (ours, theirs):
                model.zero_grad()
                model(x).square().sum().backward()
            agree(ours, theirs)
            assert torch.equal(ours.largest, theirs.largest)
        assert ours.forward.captures == ["the first call"]

    def test_fake_quantization(self) -> None:
        from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver

        class Quantized(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 2)
                per_channel = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "ch_axis": 0}
                self.quantize = FakeQuantize(
                    MovingAveragePerChannelMinMaxObserver, quant_min=-128, quant_max=127, **per_channel
                )

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return nn.functional.linear(x, self.quantize(self.linear.weight), self.linear.bias)

        ours, theirs = (m.float() for m in pair(Quantized))
        for seed in range(4):
            x = inputs(4, 3, seed=seed).float()
            for model in (ours, theirs):
                model.zero_grad()
                model(x).square().sum().backward()
                if seed == 2:
                    model.quantize.disable_observer()
            agree(ours, theirs)
            assert torch.equal(ours.quantize.scale, theirs.quantize.scale)

    def test_a_step_says_what_to_do(self) -> None:
        model = self.Observed()
        step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1))
        batch = torch.ones(4, 3), torch.ones(4, 2)
        with pytest.raises(mg.CaptureError, match="call the model once before"):
            step(*batch)
        model(batch[0])
        step(*batch)
        assert step.check_reason.startswith("agrees")

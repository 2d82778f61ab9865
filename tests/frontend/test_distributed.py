"""Wrapped models over several processes. Witness: one process in plain PyTorch on the joined batch."""

import contextlib
from functools import partial

import pytest
import torch
from processes import together
from torch import distributed, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

import memograd as mg
from memograd.frontend import segments

F64 = torch.float64
STEPS, BATCH = 4, 8


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(size), nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).tanh())


class Net(nn.Module):
    """``extra`` takes part in some calls only; ``never`` in none."""

    def __init__(self, norm=False):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([Block(8) for _ in range(2)])
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.last, self.extra, self.never = nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(2, 2)

    def forward(self, x, extra=True):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.last(x) + self.extra(x) if extra else self.last(x)


def net(**options):
    torch.manual_seed(0)
    return Net(**options).double()


def batches(count=STEPS):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield tuple(torch.randn(BATCH, n, dtype=F64, generator=generator) for n in (4, 2))


def mine(tensor):
    return tensor[distributed.get_rank() :: distributed.get_world_size()]


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained(model, share=mine, sometimes=False, pieces=1, waits=contextlib.nullcontext):
    """The weights after some steps, by name. ``pieces``: backward passes of one step, in ``waits`` but the last."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for k, (x, y) in enumerate(batches()):
        parts = list(zip(share(x).chunk(pieces), share(y).chunk(pieces), strict=True))
        for number, (a, b) in enumerate(parts):
            with waits() if number < pieces - 1 else contextlib.nullcontext():
                out = model(a, extra=k % 2 == 0) if sometimes else model(a)
                (nn.functional.mse_loss(out, b) / pieces).backward()
        optimizer.step()
        optimizer.zero_grad()
    named = {name.removeprefix("module."): whole(t) for name, t in model.state_dict().items()}
    return {name: t.detach().clone() for name, t in named.items() if "never" not in name}


def alone(**options):
    return trained(net(), share=lambda t: t, **options)


def agree(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


# -- DistributedDataParallel ---------------------------------------------------------------------------------------


def parallel(order="wrap first", budget=None, **options):
    inner = net()
    if order == "wrap first":
        mg.wrap(inner, memory_budget=budget)
    outer = DistributedDataParallel(inner, find_unused_parameters=True, **options)
    if order == "wrap the inner one":
        mg.wrap(inner, memory_budget=budget)
    if order == "wrap the outer one":
        mg.wrap(outer, memory_budget=budget)
    return outer


def orders():
    return [trained(parallel(order)) for order in ("wrap the inner one", "wrap the outer one")]


def ways():
    """The weights for each of several ways to use it."""
    segments.LEAST_BYTES = 0  # small models have several segments, too
    accumulating, hooked = parallel(), parallel()
    hooked.register_comm_hook(None, averaged)
    return {
        "small buckets": trained(parallel(bucket_cap_mb=1e-4, gradient_as_bucket_view=True)),
        "budget": trained(parallel(budget="1MiB", bucket_cap_mb=1e-4)),
        "accumulated": trained(accumulating, pieces=2, waits=accumulating.no_sync),
        "hook": trained(hooked),
        "sometimes": trained(parallel(), sometimes=True),
    }


def averaged(state, bucket):
    future = distributed.all_reduce(bucket.buffer() / distributed.get_world_size(), async_op=True).get_future()
    return future.then(lambda f: f.value()[0])


def test_weights_are_those_of_one_process():
    plain = alone()
    for answers in together(orders):
        for answer in answers:
            agree(answer, plain)
    for answers in together(ways):
        agree(answers.pop("sometimes"), alone(sometimes=True))
        for answer in answers.values():
            agree(answer, plain)


def four():
    return trained(parallel())


def test_four_processes():
    for answer in together(four, count=4):
        agree(answer, alone())


def as_ddp():
    """What depends on the processes as such, with our graphs and without."""
    answers = []
    for change in (mg.wrap, lambda model: model):
        model = change(net(norm=True))
        del model.never  # every parameter takes part
        static = DistributedDataParallel(model, static_graph=True)
        answers.append(trained(static))
    for change in (mg.wrap, lambda model: model):
        inner = change(net())
        del inner.never
        model = DistributedDataParallel(inner)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Join([model]):
            for x, _ in batches(1 + distributed.get_rank()):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        answers.append({name: t.detach().clone() for name, t in model.state_dict().items()})
    return answers


def test_statistics_static_graphs_and_uneven_inputs_as_with_plain_ddp():
    for ours, theirs, ours_uneven, theirs_uneven in together(as_ddp):
        agree(ours, theirs)
        agree(ours_uneven, theirs_uneven)


def order_of_events(budget):
    segments.LEAST_BYTES = 0
    inner = mg.wrap(net(), memory_budget=budget)
    del inner.never
    model = DistributedDataParallel(inner, bucket_cap_mb=1e-4)
    x, _ = next(batches())
    for _ in range(2):  # the second one knows in which order gradients come
        model(x).square().mean().backward()
    loss = model(x).square().mean()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        loss.backward()
    events = sorted(trace.events(), key=lambda e: e.time_range.start)
    return [e.name for e in events if e.name in ("aten::mm", "c10d::allreduce_")]


@pytest.mark.parametrize("budget", [None, "1MiB"])
def test_the_first_all_reduce_starts_before_the_backward_pass_has_ended(budget):
    for names in together(order_of_events, budget):
        behind = names[names.index("c10d::allreduce_") :].count("aten::mm")
        assert behind >= names.count("aten::mm") / 2, names


def fused():
    segments.LEAST_BYTES = 0
    answers = []
    for change in (partial(mg.wrap, backend="inductor"), lambda model: model):
        torch.manual_seed(0)
        model = DistributedDataParallel(change(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()))
        for x, _ in batches(2):
            model(mine(x)).square().sum().backward()
        answers.append({name: p.grad for name, p in model.named_parameters()})
    return answers


@pytest.mark.slow
def test_fused_kernels_are_not_cut_at_buckets():
    for ours, theirs in together(fused, timeout=200):
        agree(ours, theirs)


# -- second derivatives --------------------------------------------------------------------------------------------


class Field(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))

    def forward(self, x):
        if not self.inside:
            return self.net(x)
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


def forces(change, share=mine, inside=False):
    torch.manual_seed(0)
    model = change(Field(inside).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches():
        x = share(x).clone().requires_grad_()
        force = model(x) if inside else torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        (force - share(y)[:, :1]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name.removeprefix("module."): whole(t).detach().clone() for name, t in model.state_dict().items()}


def forces_over_processes():
    answers = [forces(lambda model: DistributedDataParallel(mg.wrap(model), find_unused_parameters=True))]
    answers.append(forces(lambda model: fully_shard(mg.wrap(model)), inside=True))
    with pytest.raises(mg.GraphError, match=r"freed.*fully_shard"):
        forces(lambda model: fully_shard(mg.wrap(model)))
    return answers


def test_second_derivatives():
    theirs = forces(lambda model: model, share=lambda t: t)
    for answers in together(forces_over_processes):
        for ours in answers:
            agree(ours, theirs)


# -- fully_shard ---------------------------------------------------------------------------------------------------


def sharded(model, wrap_first, wrapped):
    """``fully_shard`` over each block and the whole; ``wrapped``: what is wrapped, before it or after it."""
    if wrap_first:
        [mg.wrap(m) for m in wrapped(model)]
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    if not wrap_first:
        [mg.wrap(m) for m in wrapped(model)]
    return model


def fsdp_ways():
    segments.LEAST_BYTES = 0
    answers = {}
    for wrap_first in (True, False):
        answers["blocks", wrap_first] = trained(sharded(net(), wrap_first, lambda model: model.blocks))
        model = sharded(net(), wrap_first, lambda model: [model])
        answers["whole", wrap_first] = trained(model, sometimes=True)
        assert all("agrees" in block.forward.check_reason for block in model.blocks)
        mg.unwrap(model)
        assert not any("forward" in vars(m) for m in model.modules())
    model = mg.wrap(fully_shard(net()), memory_budget="1MiB")
    answers["one unit"] = trained(model, sometimes=True)
    assert model.forward.plan.peak_bytes <= model.forward.plan.budget
    return answers


def test_fully_shard():
    results = together(fsdp_ways)
    plain, sometimes = alone(), alone(sometimes=True)
    for answers in results:
        for way, answer in answers.items():
            agree(answer, plain if way[0] == "blocks" else sometimes)


def as_fully_shard():
    """Accumulation, a frozen parameter, and gathered parameters of another precision: with our graphs and without."""
    answers = []
    mixed = MixedPrecisionPolicy(param_dtype=torch.float32, output_dtype=F64)
    for change in (mg.wrap, lambda model: model):
        model = net()
        model.blocks[0].up.weight.requires_grad_(False)
        for block, policy in zip(model.blocks, (MixedPrecisionPolicy(), mixed), strict=True):
            fully_shard(change(block), mp_policy=policy)
        fully_shard(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in batches():
            for k in range(2):
                model.set_requires_gradient_sync(k == 1)
                nn.functional.mse_loss(model(mine(x)[k::2]), mine(y)[k::2]).backward()
            optimizer.step()
            optimizer.zero_grad()
        answers.append({name: whole(t).detach().clone() for name, t in model.state_dict().items()})
    return answers


def test_accumulation_frozen_parameters_and_precisions_as_with_plain_fully_shard():
    for ours, theirs in together(as_fully_shard):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


# -- what is refused -----------------------------------------------------------------------------------------------


class Talking(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        h = self.linear(x)
        distributed.all_reduce(h.detach())
        return h


def refusals():
    x = torch.randn(8, 4)
    mesh = init_device_mesh("cpu", (2,))
    parts = nn.Sequential(nn.Linear(4, 4), fully_shard(nn.Linear(4, 4)))
    texts = []
    for model in (
        Talking(),
        nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4)),
        parallelize_module(nn.Sequential(nn.Linear(4, 4)), mesh, {"0": ColwiseParallel()}),
        FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")),
    ):
        with pytest.raises(mg.CaptureError) as raised:
            mg.wrap(model)(x)
        texts.append(str(raised.value))
    with pytest.raises(mg.CaptureError) as raised:
        mg.wrap(parts, memory_budget="1MiB")(x)
    return [*texts, str(raised.value)]


def test_what_cannot_be_captured_is_refused_by_name():
    named = [
        "c10d.allreduce_",
        "SyncBatchNorm (1)",
        "'self.0.weight' is a DTensor",
        "FullyShardedDataParallel",
        "budget",
    ]
    for texts in together(refusals):
        for name, text in zip(named, texts, strict=True):
            assert name in text

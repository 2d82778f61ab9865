"""What training is given and cannot use: one sentence that names it, before anything is changed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg
from memograd.train import checkpoint

X, Y = torch.randn(5, 4), torch.randint(0, 3, (5,))
CROSS_ENTROPY = nn.CrossEntropyLoss()


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def refused(call, model, optimizer, words):
    """``call`` raises one of our errors, whose message matches, and the model, the optimizer and the generator are as
    before."""
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.get_rng_state()
    with pytest.raises(mg.MemogradError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
    (weights, state), random = before
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())
    assert optimizer.state_dict() == state
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("model", [None, 3, nn.Linear, lambda x: x, X])
def test_a_step_of_what_is_no_module_is_refused(model):
    with pytest.raises(mg.GraphError, match="model"):
        mg.TrainStep(model, CROSS_ENTROPY, sgd(network()))


@pytest.mark.parametrize("criterion", ["ce", 3, nn.CrossEntropyLoss, X])
def test_a_criterion_that_cannot_be_called_is_refused(criterion):
    model = network()
    refused(lambda: mg.TrainStep(model, criterion, sgd(model)), model, sgd(model), "criterion")


@pytest.mark.parametrize("optimizer", [None, "sgd", torch.optim.SGD, {}])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(mg.GraphError, match="optimizer"):
        mg.TrainStep(network(), CROSS_ENTROPY, optimizer)


def test_a_scheduler_in_the_place_of_the_optimizer_is_refused():
    model = network()
    scheduler = torch.optim.lr_scheduler.StepLR(sgd(model), 1)
    with pytest.raises(mg.GraphError, match="got StepLR"):
        mg.TrainStep(model, CROSS_ENTROPY, scheduler)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("lr", ["a", None, float("nan"), float("inf"), torch.tensor([0.1, 0.2])])
def test_a_learning_rate_that_is_no_finite_number_is_refused(lr):
    model = network()
    optimizer = sgd(model)
    step = mg.TrainStep(model, CROSS_ENTROPY, optimizer)
    optimizer.param_groups[0]["lr"] = lr
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises((mg.GraphError, RuntimeError)):
        step(X, Y)
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())
    with pytest.raises(mg.GraphError, match="lr of the optimizer's parameter group 0"):
        mg.TrainStep(model, CROSS_ENTROPY, optimizer)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_budget": "x"}, "memory budget"),
        ({"memory_budget": 0.5}, "memory budget"),
        ({"memory_budget": []}, "memory budget"),
        ({"backend": None}, "backend"),
        ({"compile_seconds": "a"}, "compile_seconds"),
        ({"compile_seconds": -1}, "compile_seconds"),
        ({"compile_seconds": float("nan")}, "compile_seconds"),
    ],
)
def test_options_without_sense_are_refused_when_the_step_is_made(options, words):
    model = network()
    optimizer = sgd(model)
    refused(lambda: mg.TrainStep(model, CROSS_ENTROPY, optimizer, **options), model, optimizer, words)


@pytest.mark.parametrize(
    "criterion",
    [
        lambda output, target: F.cross_entropy(output, target).detach(),
        lambda output, target: torch.tensor(1.0),
        torch.no_grad()(F.cross_entropy),
    ],
)
def test_a_loss_without_a_history_is_refused_as_backward_refuses_it(criterion):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(RuntimeError, match="does not require grad"):
        criterion(model(X), Y).backward()
    refused(
        lambda: mg.TrainStep(model, criterion, optimizer)(X, Y), model, optimizer, "the loss depends on no parameter"
    )


@pytest.mark.parametrize("steps", [0, -1, 1.5, None, "a", True])
def test_a_number_of_steps_is_a_whole_number(steps):
    model = network()
    optimizer = sgd(model)
    step = mg.TrainStep(model, CROSS_ENTROPY, optimizer)
    refused(lambda: step.run(X, Y, steps=steps), model, optimizer, "steps must be a whole number")


@pytest.mark.parametrize("state", [None, {}, {"a": 1}, [], "x", 5])
def test_a_state_that_no_step_has_made_is_refused(state):
    model = network()
    step = mg.TrainStep(model, CROSS_ENTROPY, sgd(model), ema_decay=0.9)
    with pytest.raises(mg.DataError, match=r"step.state_dict\(\)"):
        step.load_state_dict(state)


def test_gradients_gathered_for_an_unknown_parameter_are_refused():
    model = network()
    step = mg.TrainStep(model, CROSS_ENTROPY, sgd(model), accumulate=2)
    with pytest.raises(mg.DataError, match="'nobody'"):
        step.load_state_dict({**step.state_dict(), "gathered": ["nobody"]})


@pytest.mark.parametrize("held", [{}, {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}])
def test_a_state_that_does_not_fit_its_parameter_is_refused(held):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.state[next(model.parameters())] = {"step": torch.tensor(1.0), **held}
    with pytest.raises(mg.GraphError, match=r"state of Adam for a parameter of shape \(8, 4\)"):
        mg.TrainStep(model, CROSS_ENTROPY, optimizer)(X, Y)


def test_parameters_without_values_are_refused_by_name():
    model = network().to("meta")
    with pytest.raises(mg.GraphError, match=r"'0.weight' is on the meta device"):
        mg.TrainStep(model, CROSS_ENTROPY, sgd(model))


def test_parameters_without_a_shape_are_refused_by_name():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(mg.GraphError, match=r"'0.weight' has no shape yet"):
        mg.TrainStep(model, CROSS_ENTROPY, sgd(model))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.nested.nested_tensor([X, X[:3]]), "nested tensor"),
        (torch.nested.nested_tensor([X, X[:3]], layout=torch.jagged), "nested tensor"),
        (torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "quantized"),
    ],
)
def test_batches_that_no_graph_takes_are_refused_by_name(batch, words):
    model = network()
    optimizer = sgd(model)
    refused(lambda: mg.TrainStep(model, CROSS_ENTROPY, optimizer)(batch, Y), model, optimizer, words)
    with pytest.raises(mg.CaptureError, match=words):
        mg.wrap(network())(batch)
    with pytest.raises(mg.CaptureError, match=words):
        mg.capture(network(), batch)


# -- train_model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": "3"}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"dataloader": None}, "the dataloader must be"),
        ({"dataloader": 3}, "the dataloader must be"),
        ({"dataloader": torch.utils.data.DataLoader}, "got the class DataLoader"),
        ({"validation": 3}, "the validation loader must be"),
        ({"validation": iter([(X, Y)]), "epochs": 2}, "validation loader can be iterated only once"),
        ({"metrics": 3}, "metrics must be a dict"),
        ({"metrics": {"right": 3}}, "'right' must be a function"),
        ({"callback": 3}, "'callback' must be a function"),
        ({"settings": 3}, "settings must be a dict"),
        ({"device": "meta"}, "meta device"),
        ({"model": None}, "model must be"),
    ],
)
def test_a_run_is_refused_before_it_begins(options, words):
    model = network()
    optimizer = sgd(model)
    given = {"model": model, "criterion": CROSS_ENTROPY, "optimizer": optimizer, "dataloader": [(X, Y)], "epochs": 1}
    refused(lambda: mg.train_model(**{**given, **options}), model, optimizer, words)


def test_a_folder_that_cannot_be_made_is_refused_before_an_epoch_is_spent(tmp_path):
    (tmp_path / "file").write_text("x")
    model = network()
    optimizer = sgd(model)
    refused(
        lambda: mg.train_model(model, CROSS_ENTROPY, optimizer, [(X, Y)], 1, checkpoint=tmp_path / "file" / "run"),
        model,
        optimizer,
        "cannot make the folder",
    )


@pytest.mark.parametrize("field", ["model", "optimizer", "random", "history", "backend"])
@pytest.mark.parametrize("value", [None, "x"])
def test_a_checkpoint_without_what_a_run_needs_changes_nothing(tmp_path, field, value):
    if (field, value) == ("backend", "x"):
        pytest.skip("that is a name")
    model = network()
    mg.train_model(model, CROSS_ENTROPY, sgd(model), [(X, Y)], 1, checkpoint=tmp_path)
    state = checkpoint.load(tmp_path)
    assert state is not None
    checkpoint.save(tmp_path, {**state, field: value})
    other = network()
    optimizer = sgd(other)
    refused(
        lambda: mg.train_model(other, CROSS_ENTROPY, optimizer, [(X, Y)], 2, checkpoint=tmp_path, resume=True),
        other,
        optimizer,
        f"it has no '{field}'",
    )


@pytest.mark.parametrize("metric", [lambda o, t: "x", lambda o, t: o, lambda o, t: None])
def test_a_metric_that_is_no_number_is_named(metric):
    model = network()
    with pytest.raises(mg.DataError, match="validation_right must be one number"):
        mg.train_model(model, CROSS_ENTROPY, sgd(model), [(X, Y)], 1, validation=[(X, Y)], metrics={"right": metric})


def test_a_validation_batch_that_pytorch_refuses_is_named():
    model = network()
    with pytest.raises(mg.DataError, match="validation batch 1: mat1 and mat2"):
        mg.train_model(model, CROSS_ENTROPY, sgd(model), [(X, Y)], 1, validation=[(torch.randn(5, 7), Y)])

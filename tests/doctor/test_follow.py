"""A run that is followed is the run that PyTorch makes, and is drawn as it was."""

import copy
import xml.etree.ElementTree as ET

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg
from memograd.doctor.curves import panels, svg
from memograd.errors import OptionError

X, T = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def followed(model, lr=1e-2, steps=5, **options):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), optimizer=optimizer, steps=steps, **options)


def test_losses_updates_and_gains_are_those_of_a_plain_loop():
    model = network()
    twin, drawn = copy.deepcopy(model), torch.get_rng_state()
    frames = followed(model).numbers["steps"]
    torch.set_rng_state(drawn)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for frame in frames:
        seen = {}
        hook = twin[0].register_forward_hook(
            lambda m, i, y, to=seen: y.register_hook(lambda g: to.update(g=g)) and None
        )
        loss = F.cross_entropy(twin(X), T)
        optimizer.zero_grad()
        loss.backward()
        hook.remove()
        before = twin[0].weight.detach().clone()
        optimizer.step()
        assert frame["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert frame["gains"]["0"] == pytest.approx(seen["g"].norm().item(), rel=1e-4)
        moved = (twin[0].weight.detach() - before).norm() / before.norm()
        assert frame["updates"]["0.weight"] == pytest.approx(moved.item(), rel=1e-3)


def test_afterwards_everything_is_as_it_was():
    model = network()
    held, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    followed(model)
    torch.testing.assert_close(model.state_dict(), held, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn) and all(p.grad is None for p in model.parameters())


def test_what_a_function_closes_over_and_its_arguments_are_as_they_were_too():
    norm, layer, x = nn.BatchNorm1d(8), nn.Linear(8, 1), X.clone()

    def loss(x):
        return layer(norm(x.mul_(2))).square().mean()

    frames = mg.diagnose(loss, x, steps=3).numbers["steps"]
    assert len({frame["loss"] for frame in frames}) == 3 and torch.equal(x, X)
    assert norm.num_batches_tracked == 0 and not norm.running_mean.any()


def test_batches_may_be_arguments_by_place_and_by_name():
    data = [(X,), {"input": X}]
    frames = mg.diagnose(nn.Linear(8, 1), X, loss=lambda y: y.square().mean(), steps=4, data=data).numbers["steps"]
    assert len(frames) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "bfloat16"}, "precision must be True, torch.float16 or torch.bfloat16"),
        ({"precision": torch.float64}, "precision must be"),
        ({"steps": -1}, "steps must be a whole number of at least 1"),
        ({"data": [(X, T)]}, "`data` and `writer` are for a run that is followed"),
        ({"steps": 2, "data": []}, "`data` has no batch"),
    ],
    ids=str,
)
def test_options_that_would_be_left_out_without_a_word_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        mg.diagnose(network(), X, T, loss=nn.CrossEntropyLoss(), **options)


def test_a_step_beside_a_function_is_refused():
    with pytest.raises(OptionError, match="hand over the model"):
        mg.diagnose(lambda x: x.sum(), X.clone().requires_grad_(), step=lambda x: None)


def test_a_run_that_moves_nothing_is_a_note():
    report = mg.diagnose(lambda x: x.square().sum(), X.clone().requires_grad_(), steps=2)
    assert [f.kind for f in report.findings] == ["not followed"]


def test_a_model_that_learns_gets_no_finding():
    assert followed(network(), steps=25).ok


def test_units_that_die_on_the_way_are_found_with_the_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    report = followed(model, lr=0.3, steps=12)
    (finding, *_) = [f for f in report.findings if f.kind == "dead units"]
    assert 0 < finding.numbers["since"] < 12 and f"since step {finding.numbers['since']}" in finding.what
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for step in range(12):  # which they are, by PyTorch
        off = (model[: 2 if finding.where.module == "1" else 4](X) == 0).all(0)
        assert (off.double().mean() >= 0.4) == (step >= finding.numbers["since"]) or step > finding.numbers["since"]
        optimizer.zero_grad()
        F.cross_entropy(model(X), T).backward()
        optimizer.step()
    assert set(finding.numbers["which"]) <= set(range(64))


def test_a_run_that_diverges_says_at_which_step():
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    report = mg.diagnose(model, X, X[:, :1], loss=nn.MSELoss(), optimizer=optimizer, steps=200)
    (finding,) = [f for f in report.findings if f.kind == "exploding training"]
    assert finding.severity == "error" and finding.numbers["step"] == len(report.numbers["steps"]) - 1 < 199
    report = mg.diagnose(model, X, X[:, :1], loss=nn.MSELoss(), optimizer=optimizer, steps=6)  # not infinite yet
    assert "diverges" in {f.kind for f in report.findings}


def test_a_run_on_one_batch_that_does_not_fall_is_found():
    model = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 3))
    nn.init.zeros_(model[-1].weight)
    report = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), steps=20)  # without an optimizer: Adam
    assert "does not learn one batch" in {f.kind for f in report.findings}


def test_batches_are_taken_in_turn():
    model = network().eval()
    batches = [(X, T), (X[:8], T[:8])]
    frames = followed(model, steps=4, data=batches).numbers["steps"]
    twin = network().eval()
    losses = [F.cross_entropy(twin(x), t).item() for x, t in batches]
    assert frames[0]["loss"] == pytest.approx(losses[0], rel=1e-5) and len(frames) == 4


def test_a_summary_writer_gets_the_same_numbers():
    class Writer:
        def __init__(self):
            self.written = {}

        def add_scalar(self, tag, scalar_value, global_step):
            self.written[tag, global_step] = scalar_value

    writer = Writer()
    frames = followed(network(), steps=3, writer=writer).numbers["steps"]
    for k, frame in enumerate(frames):
        assert writer.written["loss", k] == frame["loss"]
        assert writer.written["gain/0", k] == frame["gains"]["0"]
        assert writer.written["update/4.weight", k] == frame["updates"]["4.weight"]
        assert writer.written["dead units/2", k] == frame["dead"]["2"]


# -- curves ------------------------------------------------------------------------------------------------------------

SPACE = "{http://www.w3.org/2000/svg}"


def test_every_line_of_every_panel_is_drawn_and_named():
    frames = followed(network(), steps=4).numbers["steps"]
    picture = ET.fromstring(svg(frames))
    titles = [t.text for t in picture.iter(f"{SPACE}title")]
    assert titles == [name for panel in panels(frames) for name in panel.lines]
    assert all(len(line.get("points").split()) == 4 for line in picture.iter(f"{SPACE}polyline"))


def test_numbers_that_are_not_finite_or_missing_are_left_out():
    frames = [
        {"loss": x, "gains": {"a<b": g}, "updates": {}, "dead": {}} for x, g in ((1.0, 0.0), (float("nan"), 1e-30))
    ]
    picture = ET.fromstring(svg(frames))
    assert {t.text for t in picture.iter(f"{SPACE}title")} == {"loss", "a<b"}
    assert "nan" not in ET.tostring(picture, encoding="unicode")


def test_a_report_is_saved_as_page_picture_data_and_text(tmp_path):
    report = followed(network(), lr=10.0, steps=3)
    page = report.save(tmp_path / "report.html").read_text()
    assert "updates too large" in page and page.count("<svg") == 1 and "<script" not in page
    assert ET.fromstring(report.save(tmp_path / "report.svg").read_text()).tag == f"{SPACE}svg"
    assert report.save(tmp_path / "report.json").read_text() == report.to_json()
    assert report.save(tmp_path / "report.txt").read_text() == f"{report}\n"


def test_no_text_of_the_program_becomes_markup():
    class Net(nn.Module):
        def forward(self, x):
            return (x * torch.zeros(3)).sum() + (x.detach() < 1).sum()  # <b>&"

    report = mg.diagnose(Net(), torch.ones(3, requires_grad=True))
    from memograd.doctor.page import page

    assert "<b>" not in page("<b>", report.findings, {}) and "&lt;b&gt;" in page("<b>", report.findings, {})

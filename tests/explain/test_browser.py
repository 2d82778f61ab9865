"""The page of a model in a real browser (see conftest.py)."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.explain.examples import example

EVIL = "<img src=x onerror=hacked=1></script><script>hacked = true</script>"


class Block(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(3, 3))
        self.name = name

    def forward(self, x):
        return torch.tanh(self._modules[self.name](x))


class Blocks(nn.Module):
    def __init__(self, name: str = "linear", count: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(name) for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    model, loss, args = example("xor")
    mg.explain(model, *args, loss=loss, memory_budget="100%").save(folder / "xor.html")
    batch = torch.randn(2, 3), torch.randn(2, 3)
    mg.explain(Blocks(), *batch, loss=nn.MSELoss(), lang="zh").save(folder / "blocks.html")
    pooled = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.MaxPool2d(2), nn.Flatten())
    mg.explain(pooled, torch.randn(1, 1, 6, 6), torch.tensor([1]), loss=nn.CrossEntropyLoss()).save(
        folder / "pooled.html"
    )
    mg.explain(Blocks(EVIL, 3), *batch, loss=nn.MSELoss()).save(folder / "evil.html")
    return folder


@pytest.fixture
def show(opened, pages):
    """Opens a page by name."""

    def shown(name: str, width: int = 1280, height: int = 800, **options):
        page = opened(pages / name, width, height, **options)
        page.locator("#now:not(:empty)").wait_for()
        return page

    return shown


def test_stepping_through_xor_gives_the_table_of_differentiate(show):
    page = show("xor.html")
    steps = int(page.locator("#position").get_attribute("max"))
    table: dict[str, list[float]] = {}
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
        for row in page.locator("tr.fresh").all():
            numbers = row.locator("td").get_attribute("title").split()
            assert table.setdefault(row.locator("th").inner_text(), [float(x) for x in numbers])
    assert page.locator("#now").inner_text().startswith("All questions are answered")
    model, loss, args = example("xor")
    forward = mg.capture(lambda x, target: loss(model(x), target), *args)
    _, gradients = mg.differentiate(forward)(*args)
    for name, gradient in gradients.items():
        assert table[name.removeprefix("model.")] == gradient.reshape(-1).tolist()
    theirs = torch.autograd.grad(loss(model(args[0]), args[1]), list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), theirs, strict=True):
        assert table[name] == pytest.approx(gradient.reshape(-1).tolist(), abs=1e-14)
    assert set(table) >= {"relu", "addmm", "addmm_1", "sigmoid", "binary_cross_entropy"}


def test_table_hits_light_up_and_questions_stack(show):
    page = show("xor.html")
    page.locator('#acts [data-act="2"]').click()
    depth, hits = 0, 0
    for _ in range(60):
        depth = max(depth, page.locator(".stack li").count())
        if page.locator("#now.pulled").count():
            hits += 1
            assert page.locator("g.node.now.pulled").count() == 1
        page.keyboard.press("ArrowRight")
    assert depth == 7 and hits == 3
    assert "table hits: 3" in page.locator(".hits").inner_text()


def test_keys_step_play_and_go_to_both_ends(show):
    page = show("xor.html")
    at = page.locator("#position")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert at.input_value() == "1"
    page.keyboard.press("End")
    assert at.input_value() == at.get_attribute("max")
    page.keyboard.press("Home")
    page.locator("#speed").select_option("32")
    page.locator("h1").click()
    page.keyboard.press(" ")
    page.locator("#position").evaluate("p => new Promise(done => setTimeout(done, 300))")
    page.keyboard.press(" ")
    stopped = int(at.input_value())
    assert stopped > 2
    page.locator("#position").evaluate("p => new Promise(done => setTimeout(done, 120))")
    assert int(at.input_value()) == stopped


def test_blocks_are_folded_and_open(show):
    page = show("blocks.html")
    nodes = page.locator("g.node")
    page.keyboard.press("o")
    opened = nodes.count()
    page.keyboard.press("o")
    group = page.locator("g.folder.closed", has_text="layers ×12")
    assert group.count() == 1 and nodes.count() < opened and group.get_attribute("aria-expanded") == "false"
    group.click()
    assert page.locator("g.folder.closed").count() == 12
    operators = nodes.count()
    page.locator("g.folder.closed").first.dispatch_event("click")
    assert nodes.count() > operators and page.locator('g.folder[aria-expanded="true"]').count() == 2


def test_folders_open_by_keys_too(show):
    page = show("blocks.html")
    page.keyboard.press("o")
    page.keyboard.press("o")
    page.locator("g.folder.closed").first.focus()
    name = page.locator("g:focus").get_attribute("data-folder")
    page.keyboard.press("Enter")
    assert page.locator("g:focus").get_attribute("data-folder") == name
    assert page.locator("g:focus").get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert page.locator("g:focus").get_attribute("aria-expanded") == "false"


def test_a_notebook_shows_the_page_in_a_frame(show, pages):
    model, loss, args = example("xor")
    shown = mg.explain(model, *args, loss=loss)._repr_html_()
    (pages / "notebook.html").write_text(f"<!DOCTYPE html><p id='now'>.</p>{shown}", encoding="utf-8")
    frame = show("notebook.html").frame_locator("iframe")
    frame.locator("#forward").click()
    assert frame.locator("#position").input_value() == "1" and frame.locator("g.node").count() == 13


def test_search_finds_what_is_folded(show):
    page = show("blocks.html")
    page.keyboard.press("o")
    page.keyboard.press("o")
    page.keyboard.press("/")
    page.keyboard.type("layers.7.linear.bias")
    page.keyboard.press("Enter")
    assert "layers.7.linear.bias" in page.locator("#panel h2").inner_text()
    assert "layers.7.linear.bias" in page.locator("g.node.chosen").text_content()


def test_an_element_is_the_sum_of_its_paths(show):
    page = show("xor.html")
    page.keyboard.press("End")
    page.keyboard.press("/")
    page.keyboard.type("fc2.weight")
    page.keyboard.press("Enter")
    page.locator("table.numbers button").first.click()
    model, loss, args = example("xor")
    (gradient,) = torch.autograd.grad(loss(model(args[0]), args[1]), [model.fc2.weight])
    shown = page.locator(".paths .sum b").inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(gradient[0, 0].item(), abs=5e-5)
    page.locator(".links button", has_text="t_1").first.click()
    assert "X" in page.locator("math").first.text_content()


def test_both_languages(show):
    page = show("blocks.html")
    assert page.locator("html").get_attribute("lang") == "zh-CN" and "反向传播" in page.locator("h1").inner_text()
    page.locator("#language").click()
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("#tabs").inner_text().split() == ["Recursion", "Node", "Counts"]


@pytest.mark.parametrize("width, height", [(360, 740), (1280, 800), (2560, 1440)])
def test_nothing_is_cut_off_at_any_width(show, width, height):
    page = show("xor.html", width, height, has_touch=True)
    page.locator("#forward").tap()
    for tab in ("recursion", "node", "counts", "memory"):
        page.locator(f"#tab-{tab}").tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#position").input_value() == "1"


def test_budgets_can_be_looked_into(show):
    page = show("xor.html")
    page.locator("#tab-memory").click()
    page.locator(".bytes .layer").first.click(force=True)
    assert page.locator(".about h3").count() == 1


def test_the_whole_step_is_a_second_picture(show):
    page = show("xor.html")
    page.locator("#views button").nth(1).click()
    assert page.locator("g.node.backward").count() > 5
    page.locator("g.node.backward").first.dispatch_event("click")
    assert "adjoint of" in page.locator("#panel").inner_text()
    page.locator("#views button").first.click()
    assert page.locator("g.node.backward").count() == 0


def test_forward_and_backward_of_many_blocks_are_one_picture_that_is_higher_than_wide(show):
    page = show("blocks.html")
    page.locator("#views button").nth(1).click()
    width, height = (page.evaluate(f"window.page.picture.extent.{side}") for side in "wh")
    assert page.locator("g.folder.open").count() >= 2 and width < 1200 < height


def test_what_has_several_results_leads_to_each(show):
    page = show("pooled.html")
    page.keyboard.press("End")
    page.locator("g.node", has_text="max_pool2d_with_indices").first.dispatch_event("click")
    assert "Several results" in page.locator("#panel").inner_text()
    page.locator("#panel .links button", has_text="max_pool2d_with_indices[0]").first.click()
    assert page.locator("#panel h2").inner_text().endswith("max_pool2d_with_indices[0]")
    assert page.locator("g.folder", has_text="0 Sequential").count() == 1


def test_all_of_it_is_printed(show):
    page = show("xor.html")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    boxes = [node.bounding_box() for node in page.locator("g.node").all()]
    picture = page.locator("#graph").bounding_box()
    assert all(picture["y"] <= b["y"] and b["y"] + b["height"] <= picture["y"] + picture["height"] for b in boxes)
    assert page.locator("#paper tbody tr").count() == len(boxes) == 13
    assert not page.locator("#controls").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#graph").get_attribute("viewBox") is None


def test_hostile_names_are_only_text(show):
    page = show("evil.html")
    page.keyboard.press("End")
    for tab in ("recursion", "node", "counts"):
        page.locator(f"#tab-{tab}").click()
    page.keyboard.press("/")
    page.keyboard.type("<img")
    assert page.locator(".results button").count() > 0
    assert page.evaluate("typeof hacked") == "undefined" and page.locator("img").count() == 0


@pytest.mark.one_in(2)
@pytest.mark.parametrize("width, scheme", [(360, "light"), (1280, "dark")])
def test_axe_finds_nothing_serious(show, serious, width, scheme):
    page = show("xor.html", width, 900, color_scheme=scheme, bypass_csp=True)
    page.keyboard.press("End")
    for tab in ("recursion", "node", "counts", "memory"):
        page.locator(f"#tab-{tab}").click()
        assert not serious(page)


class Long(nn.Module):
    """20,000 operators, and no module around any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8))

    def forward(self, x):
        for _ in range(6667):
            x = (x * self.w).sin() + x
        return x.sum()


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = torch.randint(0, 1000, (1, 32))
    return GPT2LMHeadModel(GPT2Config(n_layer=12, vocab_size=1000)), {"input_ids": tokens, "labels": tokens}


def resnet18():
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=1000)
    images = {"pixel_values": torch.randn(2, 3, 224, 224), "labels": torch.tensor([1, 2])}
    return ResNetForImageClassification(config), images


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, megabytes, seconds", [(gpt2, 10, 2), (resnet18, 10, 2), (lambda: (Long(), {"x": torch.randn(8)}), 30, 10)]
)
def test_large_models_open_folded_and_step_quickly(show, pages, make, megabytes, seconds):
    model, options = make()
    path = mg.explain(model, **options).save(pages / "large.html")
    assert path.stat().st_size <= megabytes * 1e6
    start = time.perf_counter()
    page = show("large.html")
    assert time.perf_counter() - start < seconds
    assert 1 < page.locator("g.node, g.folder").count() < 120
    steps = "for (let i = 1; i <= 200; i++) page.go(i)"
    millis = page.evaluate(
        f"(() => {{ const t = performance.now(); {steps}; return (performance.now() - t) / 200; }})()"
    )
    assert millis < 16

"""The lesson in a real browser (see ../conftest.py): every control is touched, numbers are compared with autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memograd.explain.lesson.slopes import network

X = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
Y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    return small.save(tmp_path_factory.mktemp("lesson") / "lesson.html")


@pytest.fixture
def lesson(opened, path):
    def shown(*size, **options):
        page = opened(path, *size, **options)
        page.locator("#section-8 canvas.seeds").wait_for()
        return page

    return shown


def number(locator):
    return float(locator.text_content().replace("−", "-"))


def slide(page, selector, value):
    move = "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', {bubbles: true})); }"
    page.locator(selector).evaluate(move, value)


TO_BOTH_ENDS = """for (const control of [...document.querySelectorAll("main input")]) {
  for (const end of ["min", "max"]) {
    control.value = control[end];
    for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind));
  }
}"""


def test_the_slope_of_a_weight_is_that_of_autograd_wherever_it_is_dragged(lesson):
    page = lesson()
    section = page.locator("#section-1")
    section.locator(".options button", has_text="fc2.weight[0,0]").click()
    slide(page, "#section-1 input[type=range]", 85)
    model = network()
    w = model.fc2.weight.detach()[0, 0].item() + 3 * (85 - 60) / 60
    with torch.no_grad():
        model.fc2.weight[0, 0] = w
    (gradient,) = torch.autograd.grad(nn.functional.binary_cross_entropy(model(X), Y), [model.fc2.weight])
    assert number(section.locator("dl .adjoint dd")) == pytest.approx(gradient[0, 0].item(), abs=5e-5)
    section.locator(".drawn").scroll_into_view_if_needed()
    box = section.locator(".drawn").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 100)
    page.mouse.up()
    dragged = number(section.locator("dl .value dd"))
    start = network().fc2.weight[0, 0].item()
    place = start - 3 + 6 * (0.7 * box["width"] - 44) / (box["width"] - 54)
    assert dragged == pytest.approx(place, abs=0.06)
    section.locator("[data-do=down]").click()
    assert number(section.locator("dl .value dd")) != dragged


def test_slopes_multiply_as_autograd_says(lesson):
    page = lesson()
    section = page.locator("#section-2")
    section.locator("[data-value=tanh]").click()
    section.locator("[data-value=sigmoid]").click()
    slide(page, "#chain-x", 100)
    x = torch.tensor(-2 + 4 * 100 / 128, dtype=torch.float64, requires_grad=True)
    y = torch.tanh(x)
    z = torch.sigmoid(y)
    expected = [torch.autograd.grad(a, [b], retain_graph=True)[0].item() for a, b in ((z, x), (z, y), (y, x))]
    assert [number(b) for b in section.locator(".factor b").all()] == pytest.approx(expected, abs=5e-5)


def test_the_four_steps_show_weights_gradients_and_updates(lesson, small):
    page = lesson()
    section = page.locator("#section-3")
    slide(page, "#epoch", 20)
    frame = small.data["steps"]["frames"][20]
    section.locator(".acts button").nth(2).click()
    shown = [number(section.locator(f'[data-parameter="{k}"]')) if k < 4 or k in (6, 7) else None for k in range(9)]
    assert [s for s in shown if s is not None] == pytest.approx(
        [frame["gradients"][k] for k in (0, 1, 2, 3, 6, 7)], abs=5e-5
    )
    section.locator(".acts button").nth(3).click()
    assert number(section.locator('[data-parameter="6"]')) == pytest.approx(frame["after"][6], abs=5e-5)
    section.locator("button.do").click()
    while int(page.locator("#epoch").input_value()) < 22:
        page.wait_for_timeout(50)
    section.locator("button.do").click()


def test_stepping_through_the_recursion_gives_the_gradients_of_autograd(lesson):
    page = lesson()
    section = page.locator("#section-4")
    answers = {}
    while section.locator("#asking-position").input_value() != section.locator("#asking-position").get_attribute("max"):
        section.locator("[data-do=forward]").click()
        for row in section.locator("tr.fresh").all():
            shown = row.locator("td").get_attribute("title").split()
            answers[row.locator("th").inner_text()] = [float(v) for v in shown]
    model = network()
    loss = nn.functional.binary_cross_entropy(model(X[1:2]), Y[1:2])
    theirs = torch.autograd.grad(loss, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), theirs, strict=True):
        assert answers[name] == pytest.approx(gradient.reshape(-1).tolist(), abs=1e-12), name
    for name in ("first", "last", "back"):
        section.locator(f"[data-do={name}]").click()
    section.locator("g.node").last.dispatch_event("click")


def test_the_ladder_the_budget_and_time_follow_their_sliders(lesson, small):
    page = lesson()
    slide(page, "#rungs", 20)
    assert page.locator('[data-count="naive"]').inner_text().replace("\u2009", "") == str(4 * (2**20 - 1))
    assert page.locator('[data-count="memoized"]').inner_text() == "80"
    slide(page, "#rungs", 3)
    naive, memoized = (page.locator(f"#section-6 .tree.{kind} circle").count() for kind in ("naive", "memoized"))
    assert naive > memoized > 0
    slide(page, "#budget", 0)
    least = small.data["keeping"]["plans"][-1]
    assert f"{least['runs']}" in page.locator("#section-6 .part").nth(1).locator("dl").inner_text()
    assert page.locator("#section-6 .life.recomputed").count() > 20
    page.locator("#section-7 [data-value=linear]").click()
    slide(page, "#setting", 7)
    slide(page, "#time", 8)
    product = float(page.locator("[data-product]").get_attribute("data-product"))
    assert product == pytest.approx(1.2**20, rel=1e-8)


def test_every_button_can_be_pressed_in_both_languages(lesson):
    page = lesson(1280, 900, reduced_motion="reduce")
    for language in ("zh-CN", "en"):
        assert page.locator("html").get_attribute("lang") == language
        count = page.locator("main button").count()
        assert count > 120
        page.evaluate("for (const b of [...document.querySelectorAll('main button')]) b.click()")
        page.evaluate(TO_BOTH_ENDS)
        assert "undefined" not in page.locator("main").inner_text() and "NaN" not in page.locator("main").inner_text()
        for quiz in page.locator(".quiz").all():
            quiz.locator('[data-right="true"]').click()
            assert quiz.locator(".said.right").count() == 1
        assert page.locator("#score").inner_text().count("10") == 2
        page.locator("#language").click()
    page.locator("#theme").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_a_seed_can_be_pressed_and_asked_for(lesson, small):
    page = lesson()
    page.locator("#seed").fill("17")
    page.locator("#seed").press("Enter")
    section = page.locator("#section-8")
    assert "17" in section.locator(".fate").inner_text()
    assert section.locator(f".fate.f{small.data['fates']['fate'][17]}").count() == 1
    section.locator("canvas.seeds").click(position={"x": 4, "y": 4})
    assert page.locator("#seed").input_value() == "0"


@pytest.mark.parametrize("width, scheme", [(360, "light"), (1280, "dark"), (2560, "light")])
def test_nothing_is_cut_off_and_axe_finds_nothing_serious(lesson, serious, width, scheme):
    page = lesson(width, 900, color_scheme=scheme, bypass_csp=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#section-4 [data-do=last]").tap()
    page.locator('.quiz [data-right="true"]').first.tap()
    assert not serious(page)

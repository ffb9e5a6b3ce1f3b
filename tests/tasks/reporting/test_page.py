"""What a reader of the page meets: the score first, what differs, texts for those who see no picture, and a browser."""

import json
import re

import pytest

from tasks.common import paths
from tests.support.browser import browser
from tests.support.report_fixture import (
    ANSWERS,
    STEPS,
    built,  # noqa: F401
    house,  # noqa: F401
    other,
    part,
    read,
)


@pytest.mark.slow
def test_the_score_comes_first_and_parameters_say_what_differs(house):
    now = house()
    page = read()
    result = json.loads(paths.score("best", "votes").read_text())
    (header,) = page.find("header")
    assert f"{100 * result['pass_at_2']:.1f} %" in header.find("p")[0].text
    assert "pass@2 of best-votes" in header.text
    (differing, every) = part(page, "parameters").find("tbody")
    rows = {row.find("code")[0].text: [c.text for c in row.find("td")[1:]] for row in differing.find("tr")}
    assert rows["evaluations.attempts.steps"] == [str(STEPS), "32"]
    assert rows["train.network.width"] == [str(now.train.network.width), "96"]
    assert not {"seed", "title", "train.self_conditioning.rate", "dataset"} & set(rows)
    values = {row.find("code")[0].text: row.find("td")[1].text for row in every.find("tr")}
    assert values["seed"] == str(now.seed)
    assert set(rows) <= set(values)


@pytest.mark.slow
def test_alternative_texts_say_what_is_shown(house):
    house()
    page = read()
    alts = {name: [i.attributes["alt"] for i in part(page, name).find("img")] for name in ("solved", "missed")}
    assert "attempt 1, wrong in 1 of 5 cells, 5 × 1" in alts["solved"]
    assert "attempt 2, right, 5 × 1" in alts["solved"]
    assert "demonstration 3, output, 3 × 4" in alts["solved"]
    assert "both attempts, of the wrong size (6 × 6 instead of 2 × 2), 6 × 6" in alts["missed"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(house, width, scheme):
    house()
    with browser() as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.goto(paths.PAGE.absolute().as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
        score = page.locator(".headline b").bounding_box()
        assert score
        assert score["y"] + score["height"] < 400
        cards = page.locator("article.grid:visible")
        assert cards.count() == 5
        page.get_by_label("solved", exact=True).check()
        assert cards.count() == 2
        page.get_by_label("all", exact=True).check()
        page.get_by_label("task", exact=False).first.fill("bbbb")
        assert cards.count() == 1
        assert page.locator(".filter output").text_content() == "1 shown"
        attempt = cards.first.locator("[data-role=attempt] img").first
        attempt.scroll_into_view_if_needed()
        attempt.hover(position={"x": 3, "y": 3})
        wrong, right = other(ANSWERS["bbbb0000"][0])[0, 0], ANSWERS["bbbb0000"][0][0, 0]
        tip = page.locator("#tip").text_content()
        assert re.fullmatch(rf"row 1, column 1: {wrong} [a-z ]+, answer {right} [a-z ]+", tip)
        example = page.locator("#denoising article").first
        assert example.locator("[data-role=frame]:visible figcaption").all_text_contents() == [f"step {STEPS}"]
        example.locator("input[type=range]").fill("0")
        assert example.locator("[data-role=frame]:visible figcaption").all_text_contents() == ["start"]
        assert errors == []

"""The search page in Chromium, over a finished pipeline: cards, lightbox, keys, colors; no violation of axe-core."""

import json
import re
from urllib.parse import quote

import numpy as np
import pytest

from pipeline.search.query import ImagePart, Query, make_text_query
from tests.helpers.page_browser import find_violations, wait_until
from tests.helpers.search_page import DOGS, HITS, find_ids, read_ids, read_state, wait_for_ids

pytestmark = pytest.mark.slow


def test_start_page_shows_what_is_indexed_and_eight_examples(open_at, finished_pipeline, searcher):
    page = open_at()
    dataset = finished_pipeline.features.dataset
    expected = f"{len(dataset.images)} images and {len(dataset.captions)} captions are indexed"
    page.locator("#counts", has_text=expected).wait_for()
    assert page.locator("#examples li").count() == 8
    text = page.locator("#examples button").first.inner_text()
    assert text in {caption.text for caption in dataset.captions}
    wait_until(page, "[...document.querySelectorAll('#examples img')].every(one => one.naturalWidth > 0)")
    page.locator("#examples button").first.click()
    assert read_ids(page) == find_ids(searcher, make_text_query(text))
    assert page.locator("#start").is_hidden()
    assert page.locator("#q").input_value() == text


def test_card_shows_score_caption_and_words_that_light_up_their_region(open_at, searcher):
    page = open_at(f"?q={quote(DOGS)}")
    hit = searcher.search_text(DOGS, 1)[0]
    card = page.locator("#results .card").first
    assert f"{hit.score:.3f}" in card.inner_text()
    assert hit.captions[0] in card.inner_text()
    words = card.locator(".word").evaluate_all("words => words.map(word => word.firstChild.data)")
    assert words == [word.word for word in hit.words]
    word = card.locator(".word[data-region]").first
    number = word.get_attribute("data-region")
    word.hover()
    assert card.locator(f"rect[data-region='{number}']").evaluate("one => getComputedStyle(one).strokeWidth") == "5px"


def test_lightbox_shows_everything_of_an_image_and_searches_for_its_regions(open_at, searcher, finished_pipeline):
    page = open_at(f"?q={quote(DOGS)}")
    hit = searcher.search_text(DOGS, 1)[0]
    page.locator(HITS).first.click()
    details = page.locator("#details")
    details.get_by_text("Metadata").wait_for()
    captions = finished_pipeline.features.dataset.captions_by_image_id[hit.id]
    for text in (*(caption.text for caption in captions), f"{hit.size[0]} × {hit.size[1]} pixels", f"{hit.score:.3f}"):
        assert text in details.inner_text()
    word = details.locator("button.word[data-region]").first
    word.focus()
    number = word.get_attribute("data-region")
    assert "lit" in page.locator(f"#picture rect[data-region='{number}']").get_attribute("class")
    boxes = searcher.stored_images.read_boxes([hit.id])[hit.id].boxes
    assert page.locator("#picture rect[data-region]").count() == len(boxes)
    assert read_state(page)["open"] == [hit.id]
    page.keyboard.press("ArrowRight")
    second = read_ids(page)[1]
    page.locator("#lightbox-title", has_text=second).wait_for()
    page.go_back()
    page.locator("#lightbox").wait_for(state="hidden")
    page.go_forward()
    page.locator("#lightbox-title", has_text=second).wait_for()
    button = details.locator("button.region").first
    name = button.inner_text()
    button.click()
    page.locator("#lightbox").wait_for(state="hidden")
    (part,) = (json.loads(text) for text in read_state(page)["part"])
    stored = searcher.stored_images.read_boxes([second])[second]
    assert part["image_id"] == second
    assert any(np.allclose(part["box"], box, atol=0.01) for box in stored.boxes.tolist())
    assert name
    wait_for_ids(page, find_ids(searcher, Query((ImagePart(second, tuple(part["box"])),))))


def test_area_is_drawn_on_the_image_and_searched_for(open_at):
    page = open_at(f"?q={quote(DOGS)}")
    first = read_ids(page)[0]
    page.goto(f"{page.url}&open={first}")
    page.locator("#picture svg").wait_for()
    frame = page.locator("#picture svg").bounding_box()
    page.mouse.move(frame["x"] + 0.25 * frame["width"], frame["y"] + 0.25 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.75 * frame["width"], frame["y"] + 0.5 * frame["height"], steps=4)
    page.mouse.up()
    width, height = map(int, page.locator("#area").get_attribute("placeholder").split(", ")[2:])
    drawn = [float(value) for value in page.locator("#area").input_value().split(",")]
    assert drawn == pytest.approx([0.25 * width, 0.25 * height, 0.75 * width, 0.5 * height], abs=1.5)
    page.get_by_role("button", name="Search this area").click()
    page.locator("#chips .chip", has_text=f"of {first}").wait_for()


def test_keyboard_reaches_everything(open_at):
    page = open_at(f"?q={quote(DOGS)}")
    ids = read_ids(page)
    page.locator("h1").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.dataset.id"
    assert page.evaluate(focused) == ids[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == ids[1]
    page.keyboard.press("ArrowDown")
    columns = ids.index(page.evaluate(focused)) - 1
    assert columns >= 2
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == ids[1]
    page.keyboard.press("Enter")
    page.locator("#lightbox").wait_for()
    for _ in range(40):  # the focus stays in the lightbox
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    page.locator("#lightbox").wait_for(state="hidden")
    assert page.evaluate(focused) == ids[1], "the focus returns to the hit"
    page.keyboard.press("s")
    page.locator("#chips .chip", has_text=ids[1]).wait_for()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_page_violates_a_rule_of_axe(open_at, scheme, width):
    page = open_at("", color_scheme=scheme, viewport={"width": width, "height": 844})
    page.locator("#examples li").first.wait_for()
    assert find_violations(page) == []
    page.goto(
        f"{page.url}?q={quote(DOGS)}&min_probability=1&part={quote(json.dumps({'text': 'people', 'weight': -0.5}))}"
    )
    ids = read_ids(page)
    for summary in ("Combine", "Filter", "Settings"):
        page.locator("summary", has_text=summary).first.click()
    page.locator("#columns input").first.wait_for()
    page.locator("[data-mark='good']").first.click()
    assert find_violations(page) == []
    wide = "one.checkVisibility() && one.getBoundingClientRect().right > innerWidth"
    cut = f"[...document.querySelectorAll('body *')].filter((one) => {wide}).map((one) => one.outerHTML.slice(0, 90))"
    assert page.evaluate(cut) == []
    page.goto(f"{page.url.partition('?')[0]}?q={quote(DOGS)}&open={ids[0]}")
    page.locator("#details dl").wait_for()
    assert find_violations(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")


def test_colors_are_chosen_and_kept(open_at):
    page = open_at("", color_scheme="light")
    for expected in ("light", "dark"):
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == expected
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_texts_of_the_address_are_shown_and_never_run(open_at):
    evil = "<img src=x onerror=alert(1)>\u202e"
    part = quote(json.dumps({"text": evil, "weight": 1}))
    page = open_at(f"?q={quote(evil)}&part={part}&part=no&part=%7B%7D&open={quote(evil)}&good={quote(evil)}")
    page.on("dialog", lambda dialog: pytest.fail("a script of the address runs"))
    page.locator("#error .problem").wait_for()
    assert page.locator("img[src='x']").count() == 0
    names = page.locator("#chips .name").all_inner_texts()
    assert names == ["<img src=x onerror=alert(1)>\\u202e", "good hit <img src=x onerror=alert(1)>\\u202e"]

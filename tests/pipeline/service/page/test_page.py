"""The search page in Chromium, over a finished pipeline: every feature, and no violation of axe-core."""

import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest

from index.search.hot_reload import HotReloader
from index.versions.tags import add_tag, remove_tag
from pipeline.search.query import ImagePart, PhotoPart, Query, TextPart, VectorPart, make_text_query
from tests.helpers.page_browser import find_violations, open_browser, open_page, serve_in_thread, wait_until

pytest.importorskip("fastapi")

from pipeline.service.app import create_app

pytestmark = pytest.mark.slow
DOGS = "two dogs on the street"
HITS = "#results [data-id]"


@pytest.fixture(scope="module")
def address(searcher):
    add_tag(searcher.index.root, "summer", 1)
    with serve_in_thread(create_app(HotReloader(searcher.index.root, searcher.with_version))) as address:
        yield address
    remove_tag(searcher.index.root, "summer")


@pytest.fixture(scope="module")
def browser(address):
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_at(browser, address):
    """Opens the page at an address below that of the service, such as `?q=dogs`."""
    opened = []

    def open_(query="", **options):
        opened.append(open_page(browser, address + query, **options))
        page = opened[-1].__enter__()
        wait_until(page, "document.querySelector('#results').ariaBusy !== 'true'")
        return page

    yield open_
    for one in opened:
        one.__exit__(None, None, None)


def read_ids(page, count=None):
    """Return the ids of the hits that the page shows, in their order; waits until there are `count`."""
    if count is not None:
        wait_until(page, f"document.querySelectorAll('{HITS}').length === {count}")
    page.locator(HITS).first.wait_for()
    return page.eval_on_selector_all(HITS, "hits => hits.map(hit => hit.dataset.id)")


def find_ids(searcher, query, k=24, **options):
    (answer,) = searcher.search([query], k, **options)
    return [hit.image_id for hit in (*answer.hits, *answer.weak)]


def wait_for_ids(page, expected):
    wait_until(
        page,
        f"JSON.stringify([...document.querySelectorAll('{HITS}')].map(hit => hit.dataset.id)) === "
        f"{json.dumps(json.dumps(expected, separators=(',', ':')))}",
    )


def find_card(page, image_id):
    return page.locator("#results .card", has=page.locator(f"[data-id='{image_id}']"))


def read_state(page):
    return parse_qs(urlsplit(page.url).query)


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


def test_typing_searches_after_a_pause_and_the_back_button_returns(open_at, searcher):
    page = open_at()
    requests = []
    page.on("request", lambda request: request.url.endswith("/search") and requests.append(request.url))
    page.locator("#q").press_sequentially(DOGS, delay=5)
    wait_for_ids(page, find_ids(searcher, make_text_query(DOGS)))
    assert len(requests) < len(DOGS), "not one per key"
    assert read_state(page) == {"q": [DOGS]}
    assert page.title().startswith(DOGS)
    page.locator("#q").press("Enter")
    page.locator("#q").fill("a boat")
    wait_for_ids(page, find_ids(searcher, make_text_query("a boat")))
    page.go_back()
    wait_for_ids(page, find_ids(searcher, make_text_query(DOGS)))
    assert page.locator("#q").input_value() == DOGS
    page.go_forward()
    wait_for_ids(page, find_ids(searcher, make_text_query("a boat")))


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


def test_scrolling_shows_more_hits_until_all_are_shown(open_at, searcher):
    page = open_at(f"?q={quote(DOGS)}&min_probability=0", viewport={"width": 800, "height": 300})
    expected = [hit.image_id for hit in searcher.search_text(DOGS, 36)]
    assert len(read_ids(page)) == 24
    page.locator("footer").scroll_into_view_if_needed()
    assert read_ids(page, 36) == expected
    assert "These are all." in page.locator("#status").inner_text()


def test_weak_hits_are_apart(open_at, searcher):
    (answer,) = searcher.search([make_text_query(DOGS)], 24, min_probability=1)
    page = open_at(f"?q={quote(DOGS)}&min_probability=1")
    read_ids(page)
    assert page.locator("#weak-hits .card").count() == len(answer.weak) > 0
    assert page.locator("#hits .card").count() == len(answer.hits)
    assert page.locator("#weak").is_visible()
    page.locator("#more-weak").click()
    read_ids(page, 36)


def test_similar_images_parts_and_weights_are_those_of_the_api(open_at, searcher):
    page = open_at(f"?q={quote(DOGS)}")
    first, second = read_ids(page)[:2]
    page.locator("#results .card").nth(1).get_by_text("+ Add").click()
    query = (TextPart(DOGS), ImagePart(second))
    wait_for_ids(page, find_ids(searcher, Query(query)))
    find_card(page, first).get_by_text("Not this").click()
    query = (*query, ImagePart(first, weight=-0.5))
    wait_for_ids(page, find_ids(searcher, Query(query)))
    page.get_by_text("Combine").click()
    page.locator("#added-sign").select_option("without")
    page.locator("#added-text").fill("people")
    page.locator("#added-text").press("Enter")
    query = (*query, TextPart("people", -0.5))
    wait_for_ids(page, find_ids(searcher, Query(query)))
    address = page.url
    page.locator("#chips input").last.fill("0.75")
    page.locator("#chips input").last.press("Tab")
    wait_for_ids(page, find_ids(searcher, Query((*query[:-1], TextPart("people", 0.75)))))
    page.goto(address)
    wait_for_ids(page, find_ids(searcher, Query(query)))
    page.get_by_role("button", name=re.compile("^Remove people")).click()
    wait_for_ids(page, find_ids(searcher, Query(query[:-1])))
    page.locator("#results .card").first.get_by_text("Similar").click()
    wait_until(page, "!document.querySelector('#q').value")
    assert page.locator("#chips .chip").count() == 1


def test_marks_move_the_query_by_the_formula_of_rocchio(open_at, searcher):
    page = open_at(f"?q={quote(DOGS)}")
    good, bad, other = (read_ids(page)[number] for number in (1, 0, 2))
    for image_id, name in ((good, "Good"), (bad, "Bad"), (other, "Good")):
        find_card(page, image_id).locator(f"[title='{name} hit']").click()
    assert page.locator("#marks-text").inner_text() == "Marked: 2 good, 1 bad."
    page.locator("#refine").click()
    parts = [ImagePart(good, weight=0.75 / 2), ImagePart(other, weight=0.75 / 2), ImagePart(bad, weight=-0.15)]
    wait_for_ids(page, find_ids(searcher, Query((TextPart(DOGS), *parts))))
    assert read_state(page) == {"q": [DOGS], "good": [good, other], "bad": [bad]}
    assert page.locator("#marks").is_hidden()
    page.get_by_role("button", name=f"Remove bad hit {bad}").click()
    wait_for_ids(page, find_ids(searcher, Query((TextPart(DOGS), *parts[:2]))))


def test_filter_form_and_filter_text_follow_each_other(open_at, searcher, finished_pipeline):
    page = open_at(f"?q={quote(DOGS)}")
    page.locator("#filter-panel > summary").click()
    page.locator("#columns input[value='test']").check()
    where = "split = 'test'"
    wait_for_ids(page, find_ids(searcher, make_text_query(DOGS), where=where))
    assert page.locator("#where").input_value() == where
    page.locator("#columns input[value='val']").check()
    page.locator("#columns input[name='width'][data-side='minimum']").fill("350")
    page.locator("#columns input[name='width'][data-side='minimum']").press("Tab")
    where = "split in ('val', 'test') and width >= 350"
    wait_until(page, "document.querySelector('#where').value.includes('width')")
    assert sorted(page.locator("#where").input_value().split(" and ")) in (
        sorted(where.split(" and ")),
        sorted(["split in ('test', 'val')", "width >= 350"]),
    )
    wait_for_ids(page, find_ids(searcher, make_text_query(DOGS), where=where))
    page.locator("#where").fill("not split = 'val' or caption like '%dog%'")
    page.locator("#where").press("Enter")
    wait_for_ids(page, find_ids(searcher, make_text_query(DOGS), where="not split = 'val' or caption like '%dog%'"))
    assert page.locator("#filter-note").is_visible()
    assert not page.locator("#columns input[value='test']").is_checked()
    page.locator("#where").fill("splt = 'x'")
    page.locator("#where").press("Enter")
    page.locator("#error", has_text="did you mean 'split'?").wait_for()
    page.locator("#where").fill("width < 0")
    page.locator("#where").press("Enter")
    page.locator("#status", has_text="No images match the filter.").wait_for()


def test_photo_and_vector_of_the_user_become_parts(open_at, searcher, finished_pipeline, tmp_path):
    page = open_at()
    image = finished_pipeline.features.dataset.images[3]
    page.locator("#file").set_input_files(image.path)
    expected = find_ids(searcher, Query((PhotoPart(image.path.read_bytes()),)))
    wait_for_ids(page, expected)
    assert image.id not in expected
    assert page.locator("#not-in-address").is_visible()
    page.locator("#results [data-id]").first.click()
    page.go_back()
    wait_for_ids(page, expected)
    page.get_by_role("button", name="Choose an area of").click()
    page.locator("#photo-dialog #area").fill("0, 0, 200, 200")
    page.get_by_role("button", name="Search this area").click()
    wait_for_ids(page, find_ids(searcher, Query((PhotoPart(image.path.read_bytes(), (0, 0, 200, 200)),))))
    page.reload()
    page.locator("#missing-photos").wait_for()
    vector = searcher.embed_text(DOGS)[0]
    np.save(tmp_path / "v.npy", vector)
    page.locator("#file").set_input_files(tmp_path / "v.npy")
    wait_for_ids(page, find_ids(searcher, Query((VectorPart(vector),))))
    (tmp_path / "w.npy").write_bytes(b"no vector")
    page.locator("#file").set_input_files(tmp_path / "w.npy")
    page.locator("#error", has_text="w.npy: The file is not a .npy file").wait_for()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_photo_is_dropped_or_pasted(open_at, searcher, finished_pipeline, event):
    page = open_at()
    content = finished_pipeline.features.dataset.images[5].path.read_bytes()
    page.evaluate(
        """([event, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], 'p.jpg', {type: 'image/jpeg'}));
            const options = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(event === 'drop' ? new DragEvent('drop', {...options, dataTransfer: data})
                : new ClipboardEvent('paste', {...options, clipboardData: data}));
        }""",
        [event, list(content)],
    )
    wait_for_ids(page, find_ids(searcher, Query((PhotoPart(content),))))


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


def test_captions_versions_and_tags_are_chosen_in_the_settings(open_at, searcher):
    page = open_at(f"?q={quote(DOGS)}")
    page.get_by_text("Settings").click()
    page.locator("#version").select_option("summer")
    wait_until(page, "location.search.includes('version=summer')")
    versions = ["Published version", "Version 1 (published)", "summer (version 1)"]
    assert page.locator("#version option").all_inner_texts() == versions
    page.locator("#target").select_option("captions")
    (answer,) = searcher.search([make_text_query(DOGS, "caption")], 24)
    page.locator(".about p", has_text=answer.hits[0].captions[0]).first.wait_for()
    assert read_state(page) == {"q": [DOGS], "for": ["captions"], "version": ["summer"]}
    page.locator("#version").evaluate("one => one.append(new Option('none', 'none'))")
    page.locator("#version").select_option("none")
    page.locator("#error", has_text="The index has no version 'none'").wait_for()


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

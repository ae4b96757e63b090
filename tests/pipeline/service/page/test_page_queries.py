"""The queries of the search page in Chromium, over a finished pipeline: texts, photos, parts, marks and filters."""

import re
from urllib.parse import quote

import numpy as np
import pytest

from pipeline.search.query import ImagePart, PhotoPart, Query, TextPart, VectorPart, make_text_query
from tests.helpers.page_browser import wait_until
from tests.helpers.search_page import DOGS, find_card, find_ids, read_ids, read_state, wait_for_ids

pytestmark = pytest.mark.slow


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

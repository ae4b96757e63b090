"""The search page in Chromium when the service needs a token, fails, is busy or is gone."""

import json

import pytest

from tests.helpers.fake_searchers import FakeReloader, FakeSearcher
from tests.helpers.page_browser import find_violations, open_page, serve_in_thread

pytest.importorskip("fastapi")

from pipeline.service.access.bearer_tokens import BearerTokens
from pipeline.service.app import create_app

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-the-service"


@pytest.fixture
def make_address(tmp_path, request):
    def make(error=None, tokens=None):
        service = serve_in_thread(create_app(FakeReloader(FakeSearcher(error), tmp_path), tokens=tokens))
        request.addfinalizer(lambda: service.__exit__(None, None, None))
        return service.__enter__()

    return make


def test_token_is_asked_for_once_and_sent_with_every_request(browser, make_address):
    with open_page(browser, f"{make_address(tokens=BearerTokens([TOKEN]))}?q=dogs") as page:
        page.locator("#token-dialog").wait_for()
        assert find_violations(page) == []
        page.keyboard.press("Escape")
        page.locator("#token").fill("a-wrong-token-of-it")
        page.keyboard.press("Enter")
        page.locator("#token-error").wait_for()
        page.locator("#token").fill(TOKEN)
        page.locator("#token-form button").click()
        page.locator("#status", has_text="There are no images").wait_for()
        page.reload()
        page.locator("#status", has_text="There are no images").wait_for()
        assert page.locator("#token-dialog").is_hidden()
        assert TOKEN not in page.url


def test_images_are_loaded_with_the_token(browser, make_address):
    with open_page(browser, make_address(tokens=BearerTokens([TOKEN]))) as page:
        page.locator("#token").fill(TOKEN)
        page.locator("#token-form button").click()
        page.locator("#token-dialog").wait_for(state="hidden")
        page.locator("#counts", has_text="Nothing is indexed").wait_for()
        assert page.locator("#examples-title").is_hidden()
        sent = []
        page.on("request", lambda request: "thumbnails" in request.url and sent.append(request.all_headers()))
        page.route(
            "**/search", lambda route: route.fulfill(json=make_answer([make_hit(number) for number in range(3)]))
        )
        page.locator("#q").fill("dogs")
        page.locator("#results img.missing").nth(2).wait_for()  # the service has no such images
        assert [headers["authorization"] for headers in sent] == [f"Bearer {TOKEN}"] * 3


def make_hit(number):
    values = {"score": 0.5, "probability": None, "captions": [], "regions": [], "words": [], "size": [4, 3]}
    return {"id": f"{number}.jpg", "image_id": f"{number}.jpg", **values}


def make_answer(hits):
    return {"version": 7, "answers": [{"hits": hits, "weak": [], "note": "A note."}]}


def test_errors_are_shown_with_a_way_to_try_again(browser, make_address):
    with open_page(browser, f"{make_address(ValueError('The query is wrong.'))}?q=dogs") as page:
        page.locator("#error", has_text="The query is wrong.").wait_for()
        assert find_violations(page) == []
        page.route("**/search", lambda route: route.abort())
        page.locator("#error button").click()
        page.locator("#error", has_text="The service cannot be reached.").wait_for()
        page.unroute("**/search")
        page.route("**/search", lambda route: route.fulfill(json=make_answer([make_hit(1)])))
        page.locator("#error button").click()
        page.locator("#results [data-id]").wait_for()
        assert page.locator("#error").inner_text() == ""
        assert page.locator("#notes").inner_text() == "A note."


def test_search_waits_for_a_busy_service_and_forgets_a_query_that_is_typed_over(browser, make_address):
    held, seen = [], []

    def answer(route):
        query = json.loads(route.request.post_data)["queries"][0]["parts"][0]["text"]
        seen.append(query)
        if query == "old":
            held.append(route)  # it is never answered
        elif seen.count("new") == 1:
            route.fulfill(status=503, headers={"Retry-After": "0.1"}, json={"detail": "busy"})
        else:
            route.fulfill(json=make_answer([make_hit(2)]))

    with open_page(browser, make_address()) as page:
        page.route("**/search", answer)
        page.locator("#q").fill("old")
        page.locator("#results[aria-busy='true']").wait_for()
        page.locator("#q").fill("new")
        page.locator("#results [data-id='2.jpg']").wait_for()
        assert page.locator("#results [data-id]").count() == 1
        assert seen == ["old", "new", "new"]
        assert len(held) == 1

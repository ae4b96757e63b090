"""What the tests of the search page read of it, and what they compare it with."""

import json
from urllib.parse import parse_qs, urlsplit

from tests.helpers.page_browser import wait_until

DOGS = "two dogs on the street"
HITS = "#results [data-id]"


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

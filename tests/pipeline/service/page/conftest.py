"""The search page over the finished pipeline, in Chromium."""

import pytest

from index.search.hot_reload import HotReloader
from index.versions.tags import add_tag, remove_tag
from tests.helpers.page_browser import open_page, serve_in_thread, wait_until


@pytest.fixture(scope="module")
def address(searcher):
    pytest.importorskip("fastapi")
    from pipeline.service.app import create_app

    add_tag(searcher.index.root, "summer", 1)
    with serve_in_thread(create_app(HotReloader(searcher.index.root, searcher.with_version))) as address:
        yield address
    remove_tag(searcher.index.root, "summer")


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

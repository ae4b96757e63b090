"""A browser for the tests of pages."""

import pytest

from tests.helpers.page_browser import open_browser


@pytest.fixture(scope="module")
def browser():
    """Chromium; the test is skipped where it is absent."""
    with open_browser() as browser:
        yield browser

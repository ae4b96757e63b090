"""A service in a thread of the test, and Chromium that opens its page."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")  # of Debian
MAX_SECONDS = 60  # for anything that the page does, on a machine that is busy


@contextmanager
def serve_in_thread(app) -> Iterator[str]:
    """Serve an application on a free port of this machine; yields its address."""
    uvicorn = pytest.importorskip("uvicorn")
    from pipeline.service.connections import BoundedProtocol

    server = uvicorn.Server(uvicorn.Config(app, http=BoundedProtocol, ws="none", log_level="error"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@contextmanager
def open_browser() -> Iterator[object]:
    """Start Chromium; skips the test where it or Playwright is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright (extra `dev`) is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}; `apt-get install chromium` installs it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser, address: str, **options: object) -> Iterator[object]:
    """Open a page in a profile of its own. Errors of its scripts, and what its CSP refuses, fail the test."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page, errors = context.new_page(), []
    page.set_default_timeout(1_000 * MAX_SECONDS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: "Content Security Policy" in line.text and errors.append(line.text))
    page.goto(address)
    yield page
    context.close()
    assert not errors


def wait_until(page, expression: str, seconds: float = MAX_SECONDS) -> None:
    """Wait until a JavaScript expression is true. `page.wait_for_function` needs `eval`, which the CSP forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
        page.wait_for_timeout(30)


def find_violations(page) -> list[str]:
    """Find what axe-core complains about on a page: one line per rule and element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core (extra `dev`) is not installed")
    response = axe.Axe().run(page).response
    return [f"{found['id']}: {node['html'][:200]}" for found in response["violations"] for node in found["nodes"]]

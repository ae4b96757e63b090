"""How fast the search page shows 24 images of 12 megapixels, and whether it scrolls smoothly. Needs Chromium."""

import io
import os
import shutil
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from tests.bench.pipeline.large_world import make_large_world
from tests.bench.pipeline.service import WORKSPACE
from tests.helpers.page_browser import open_browser, open_page, wait_until
from tests.helpers.service_process import ServiceProcess, run_service

NUM_IMAGES, NUM_LARGE, NUM_DIFFERENT = 11_000, 1_000, 50
LARGE_SIZE = (4_000, 3_000)
NUM_SCROLLED = 1_000
QUERY = "?q=two%20dogs%20on%20a%20street&min_probability=0"
LOADED = (
    "(images => images.length >= 24 && images.slice(0, 24).every(one => one.complete && one.naturalWidth))"
    "([...document.querySelectorAll('#hits img')])"
)
WATCH_LONG_TASKS = """() => {
    window.longTasks = [];
    new PerformanceObserver(list => window.longTasks.push(...list.getEntries().map(one => one.duration)))
        .observe({type: 'longtask', buffered: true});
}"""


def page(folder: Path) -> None:
    """Measure the first screen, cold and warm, the memory of the service, and the long tasks while one scrolls."""
    if not (WORKSPACE / "index" / "CURRENT").is_file():
        Console().print(f"The table `page` needs the index in {WORKSPACE}. Run `tern demo` first.")
        return
    world = folder / "world"
    if not world.exists():
        make_large_world(WORKSPACE, world, NUM_IMAGES)
        enlarge_images(world / "dataset" / "images")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    shutil.rmtree(folder / "cache" / "tern" / "thumbnails", ignore_errors=True)
    table = Table(
        "what", "result", "memory MB", title=f"search page, load {os.getloadavg()[0]:.1f}", title_justify="left"
    )
    options = ("--set", f"workspace={world}")
    with open_browser() as browser:
        with run_service("demo", folder / "log", *options) as service:
            add_row(table, "24 thumbnails, nothing cached", service, show_first_screen(browser, service))
            add_row(table, "again, another browser", service, show_first_screen(browser, service))
        with run_service("demo", folder / "log", *options) as service:
            add_row(table, "after a restart, from disk", service, show_first_screen(browser, service))
            add_row(table, f"scrolling through {NUM_SCROLLED:,} hits", service, scroll(browser, service))
            table.add_row("peak of the service", "", f"{service.peak_memory / 1e6:,.0f}")
    Console().print(table)


def add_row(table: Table, what: str, service: ServiceProcess, result: str) -> None:
    """Add a row with the memory of the service."""
    table.add_row(what, result, f"{service.memory / 1e6:,.0f}")


def enlarge_images(folder: Path) -> None:
    """Replace most images by larger ones, each with a content of its own: few are drawn, since it takes long."""
    paths = sorted(folder.glob("*.jpg"))[:NUM_LARGE]
    contents = []
    for path in paths[:NUM_DIFFERENT]:
        buffer = io.BytesIO()
        Image.open(path).convert("RGB").resize(LARGE_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % NUM_DIFFERENT] + str(number).encode())  # decoders ignore what follows


def show_first_screen(browser, service: ServiceProcess) -> str:
    """Open the page in a new profile of the browser; return how long the hits and their thumbnails take."""
    with open_page(browser, f"http://127.0.0.1:{service.port}/healthz") as tab:
        cpu, start = service.cpu_seconds, time.monotonic()
        tab.goto(f"http://127.0.0.1:{service.port}/{QUERY}", wait_until="commit")
        tab.locator("#hits .card:not(.loading)").first.wait_for()
        hits = time.monotonic() - start
        tab.evaluate("document.querySelectorAll('#hits img').forEach(one => { one.loading = 'eager'; })")
        wait_until(tab, LOADED, 60)
        thumbnails, used = time.monotonic() - start, service.cpu_seconds - cpu
        return f"hits {hits:.2f} s, thumbnails {thumbnails:.2f} s, {used:.2f} CPU s of the service"


def scroll(browser, service: ServiceProcess) -> str:
    """Scroll to the end of the hits; return the longest task of the browser."""
    with open_page(browser, f"http://127.0.0.1:{service.port}/{QUERY}") as tab:
        tab.locator("#hits .card:not(.loading)").first.wait_for()
        tab.evaluate(WATCH_LONG_TASKS)
        end = time.monotonic() + 240
        count = 0
        while count < NUM_SCROLLED and time.monotonic() < end:
            tab.mouse.wheel(0, 1_500)
            tab.wait_for_timeout(50)
            count = tab.locator("#hits .card").count()
        tasks = tab.evaluate("window.longTasks")
        return f"{count:,} hits; {len(tasks)} tasks above 50 ms, the longest {max(tasks, default=0):.0f} ms"

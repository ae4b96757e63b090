"""Report, misses, comparison and gallery in Chromium: axe-core, narrow screens, keys, and how they are printed."""

from pathlib import Path

import pytest

from pipeline.pages.gallery import write_gallery
from pipeline.pages.misses import find_misses, write_misses
from pipeline.pages.report import write_report
from pipeline.runs.quality import compare_split
from pipeline.search.query import make_text_query
from pipeline.search.searcher import Searcher
from pipeline.stages.evaluate import read_or_compute_ranks
from tern.evaluation import SplitRanks
from tests.helpers.page_browser import find_violations, open_page
from tests.helpers.search_page import DOGS

pytestmark = pytest.mark.slow
PAGES = ("report", "misses", "comparison", "gallery")
FOCUSABLE = "a[href], button, select, input, summary, [tabindex='0']"


K = 3


def swap_some(ranks: dict[str, int]) -> dict[str, int]:
    """Ranks that miss half of the queries that are found, and find half of those that are missed."""
    found, missed = ([query for query, rank in ranks.items() if (rank <= K) == is_found] for is_found in (True, False))
    return ranks | dict.fromkeys(found[::2], K + 1) | dict.fromkeys(missed[::2], 1)


@pytest.fixture(scope="module")
def pages(finished_pipeline, tmp_path_factory) -> dict[str, Path]:
    """The pages of a run by name."""
    folder, dataset = tmp_path_factory.mktemp("pages"), finished_pipeline.features.dataset
    vectors, config = finished_pipeline.vectors, finished_pipeline.plan.evaluate
    ranks = read_or_compute_ranks(vectors, dataset, finished_pipeline.workspace, "test", config)
    other = SplitRanks(t2i=swap_some(ranks.t2i), i2t=swap_some(ranks.i2t))
    comparison = compare_split(ranks, ("another run", other), dataset, K)
    (answer,) = Searcher(finished_pipeline.plan).search([make_text_query(DOGS)], 12, min_probability=0.5)
    misses, compared = (find_misses(vectors, dataset, "test", K, 4, one) for one in (None, comparison))
    return {
        "report": write_report(finished_pipeline),
        "misses": write_misses(folder / "misses.html", misses, dataset),
        "comparison": write_misses(folder / "comparison.html", compared, dataset),
        "gallery": write_gallery(folder / "gallery.html", DOGS, answer.hits, answer.weak),
    }


@pytest.fixture
def open_file(browser, pages):
    """Opens one of the pages."""
    return lambda name, **options: open_page(browser, pages[name].as_uri(), **options)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_page_violates_a_rule_of_axe_or_is_cut(name, scheme, width, open_file):
    with open_file(name, color_scheme=scheme, viewport={"width": width, "height": 844}) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert find_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        (dark,) = {page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 29)"}
        assert dark == (scheme == "dark")


@pytest.mark.parametrize("name", PAGES)
def test_keys_reach_everything_that_a_pointer_reaches(name, open_file):
    with open_file(name) as page:
        visible = f"[...document.querySelectorAll(`{FOCUSABLE}`)].filter(one => one.checkVisibility())"
        expected = page.evaluate(f"{visible}.length")
        page.evaluate("window.reached = new Set()")
        for _ in range(expected):
            page.keyboard.press("Tab")
            page.evaluate("reached.add(document.activeElement)")
        assert page.evaluate("reached.size") == expected
        for image in page.locator(".thumbnail[tabindex]").all()[:1]:
            image.focus()
            page.keyboard.press("Shift")  # the focus is that of a keyboard
            visible = "boxes => boxes.map(one => getComputedStyle(one).visibility === 'visible')"
            assert all(image.locator("rect").evaluate_all(visible))


@pytest.mark.parametrize("name", PAGES)
def test_printed_page_is_light_and_complete(name, open_file):
    with open_file(name, color_scheme="dark") as page:
        page.emulate_media(media="print")
        colors = "one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]"
        assert page.locator(".card").first.evaluate(colors) == ["rgb(29, 36, 48)", "rgb(255, 255, 255)"]
        heights = "all => all.map(one => one.getBoundingClientRect().height)"
        assert all(page.locator("details > :not(summary)").evaluate_all(heights)), "folded parts are shown"
        assert not any(page.locator("select, input").evaluate_all("all => all.map(one => one.checkVisibility())"))


def test_report_begins_with_what_is_indexed_and_eight_examples(finished_pipeline, open_file):
    with open_file("report") as page:
        text = page.locator("main").inner_text()
        dataset = finished_pipeline.features.dataset
        assert text.index("What is indexed") < text.index("What it can be asked") < text.index("How well it finds")
        parts = (f"Captions\n{len(dataset.captions)}", finished_pipeline.model.name, "published on 2", "split")
        assert [part for part in parts if part not in text] == []
        cards = page.locator(".report-examples .card")
        assert cards.count() == 8
        queries = finished_pipeline.plan.report.queries
        assert cards.first.inner_text() == f"“{queries[0]}”"
        cards.first.click()
        assert page.url.endswith("#query-1")


def test_comparison_has_every_metric_and_pictures_of_what_changed(pages, open_file):
    with open_file("comparison") as page:
        rows = page.get_by_role("region", name="Metrics of the two evaluations").locator("tr").all_inner_texts()
        assert [row.partition("\t")[0] for row in rows] == [
            "metric",
            *(f"{direction} {metric}" for direction in ("text to image", "image to text")
              for metric in ("R@1, %", "R@5, %", "R@10, %", "median rank", "mean rank")),
            "rsum, of 600",
        ]  # fmt: skip
        assert all(len(row.split("\t")) == 8 for row in rows)
        summaries = page.locator("details > summary").all_inner_texts()
        assert any("lost, text to image" in text for text in summaries)
        assert any("won, text to image" in text for text in summaries)
        for detail in page.locator("details").all():
            images = detail.locator("img")
            assert images.count() == min(4, int(detail.locator("summary").inner_text().split()[0]))

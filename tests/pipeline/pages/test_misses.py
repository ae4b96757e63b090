"""The page of misses against a reference loop and the evaluation; captions and ids are never interpreted as HTML."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from data.datasets.records import Caption, Dataset, Image
from data.store.store import Store
from pipeline.cli.app import build_app
from pipeline.pages.misses import MAX_HIGHER_RANKED, Miss, MissReport, find_misses, write_misses
from pipeline.pages.report import write_report
from tern.evaluation.results import RetrievalMetrics
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow


def reference_misses(finished, split, k):
    """Map (direction, query) to the rank from 1 and the ids that rank higher, best first, with one loop per query."""
    stores = {
        "t2i": (finished.vectors.captions, finished.vectors.images),
        "i2t": (finished.vectors.images, finished.vectors.captions),
    }
    dataset = finished.features.dataset
    image_of = {caption.id: caption.image_id for caption in dataset.captions}
    image_of |= {image.id: image.id for image in dataset.images}
    split_ids = {image.id for image in dataset.images if image.split == split}
    misses = {}
    for direction, folders in stores.items():
        queries, items = (
            {n: s.read("features", [n])[0].astype(float) for n in s.ids if image_of[n] in split_ids}
            for s in map(Store, folders)
        )
        for query, vector in queries.items():
            scores = {name: float(sum(vector * row)) for name, row in items.items()}
            best = max(score for name, score in scores.items() if image_of[name] == image_of[query])
            higher = [n for n in scores if scores[n] > best and image_of[n] != image_of[query]]
            if len(higher) >= k:
                misses[direction, query] = len(higher) + 1, sorted(higher, key=lambda n: -scores[n])
    return misses


@pytest.mark.parametrize("k", [1, 3])
def test_find_misses_matches_the_reference_and_the_evaluation(finished_pipeline, k):
    dataset = finished_pipeline.features.dataset
    report = find_misses(finished_pipeline.vectors, dataset, "test", k, limit=500)
    expected = reference_misses(finished_pipeline, "test", k)
    assert len(expected) > 5, "a model of three epochs misses often"
    misses = [miss for misses in report.worst.values() for miss in misses]
    assert {(m.direction, m.query): (m.rank, [name for name, _ in m.higher_ranked]) for m in misses} == {
        key: (rank, higher[:MAX_HIGHER_RANKED]) for key, (rank, higher) in expected.items()
    }
    image_of = dataset.image_id_by_caption_id
    for direction, misses in report.worst.items():
        assert [m.rank for m in misses] == sorted((m.rank for m in misses), reverse=True)
        assert report.num_missed[direction] == len(misses)
        assert all(image_of.get(m.relevant_id, m.relevant_id) == image_of.get(m.query, m.query) for m in misses)
    evaluation = finished_pipeline.evaluation.splits["test"]
    assert report.metrics.flat() == {key: evaluation.metrics.flat()[key] for key in report.metrics.flat()}
    assert report.num_queries == {"t2i": evaluation.captions, "i2t": evaluation.images}


class ParsedPage(HTMLParser):
    """The elements of a page, as a browser reads them, with the names of their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name for name, _ in attrs}))


HOSTILE_TEXTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</article>' onload='x",
    "a\u202ejpg.exe\x1b[2J",
)
METRICS = RetrievalMetrics.from_flat(
    {f"{d}_{key}": 1.0 for d in ("t2i", "i2t") for key in ("r1", "r5", "r10", "medr", "meanr")} | {"rsum": 6.0}
)
ONE_EACH = {"t2i": 1, "i2t": 1}


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_page_escapes_captions_and_ids(text, tmp_path):
    images = tuple(Image(text + name, tmp_path / "gone.jpg", "test") for name in "ab")
    captions = tuple(Caption(f"{image.id}#0", image.id, text) for image in images)
    dataset = Dataset(text, tmp_path, images, captions)
    a, b = (caption.id for caption in captions)
    worst = {
        "t2i": (Miss("t2i", a, 2, images[0].id, 0.1, ((images[1].id, 0.3),)),),
        "i2t": (Miss("i2t", images[0].id, 2, a, 0.1, ((b, 0.3),)),),
    }
    report = MissReport("test", 1, METRICS, ONE_EACH, ONE_EACH, worst)
    page = write_misses(tmp_path / "m.html", report, dataset).read_text()
    parsed = ParsedPage(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 1, "the script of the page itself"
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == 4
    assert not any(name.startswith("on") for _, names in parsed.tags for name in names)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_card_shows_the_image_of_its_item(tmp_path):
    colors = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    for name, color in colors.items():
        PIL.Image.new("RGB", (40, 30), color).save(tmp_path / f"{name}.png")
    images = tuple(Image(name, tmp_path / f"{name}.png", "test") for name in colors)
    dataset = Dataset("x", tmp_path, images, tuple(Caption(f"of {name}", name, name) for name in colors))
    worst = {
        "t2i": (Miss("t2i", "of red", 3, "red", 0.1, (("blue", 0.3), ("green", 0.2))),),
        "i2t": (Miss("i2t", "green", 2, "of green", 0.1, (("of blue", 0.3),)),),
    }
    report = MissReport("test", 1, METRICS, ONE_EACH, ONE_EACH, worst)
    page = write_misses(tmp_path / "m.html", report, dataset).read_text()
    shown = []
    for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page):
        mean = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(text)))).reshape(-1, 3).mean(0)
        shown.append(min(colors, key=lambda name: abs(mean - colors[name]).sum()))
    # Caption query: the items that rank higher, then the relevant one. Image query: the query, then the captions'
    # own images.
    assert shown == ["blue", "green", "red", "green", "blue"]


def test_invalid_input_raises_with_a_next_step(finished_pipeline, tmp_path):
    vectors, dataset = finished_pipeline.vectors, finished_pipeline.features.dataset
    only_train = replace(dataset, captions=dataset.select_split("train").captions)
    with pytest.raises(ValueError, match=r"no image of split 'test' has a caption.*Choose another --split"):
        find_misses(vectors, only_train, "test")
    with pytest.raises(ValueError, match=r"no image in split 'tset'\. Choose one of its splits: train"):
        find_misses(vectors, dataset, "tset")
    with pytest.raises(ValueError, match=r"m\.txt does not end in \.html"):
        write_misses(tmp_path / "m.txt", find_misses(vectors, dataset, "test"), dataset)


def test_command_writes_the_page_and_the_report_links_to_it(finished_pipeline):
    workspace = finished_pipeline.plan.workspace
    plan, page = str(small_plan(workspace.parent)), workspace / "misses-val.html"
    result = CliRunner().invoke(build_app(), ["misses", "--plan", plan, "--split", "val", "--limit", "2", "-k", "2"])
    assert result.exit_code == 0, result.output
    assert f"misses  {page}" in result.stdout
    report = find_misses(finished_pipeline.vectors, finished_pipeline.features.dataset, "val", 2)
    assert page.read_text().count("<article") == sum(min(2, count) for count in report.num_missed.values())
    captions = {miss.query: miss for miss in report.worst["t2i"]}
    assert captions
    for text in re.findall(r"<article.*?</article>", page.read_text(), re.DOTALL):
        words = re.findall(r'<span class="words">(.*?)</span>\s*\n', text)
        name = re.search(r'data-name="([^"]*)"', text)[1]
        assert len(words) == (len(captions[name].higher_ranked) + 1 if name in captions else 0), name
    assert 'href="misses-test.html"' in write_report(finished_pipeline).read_text()
    assert (workspace / "misses-test.html").is_file()

"""The page of misses: ranks are a slow loop's, figures the evaluation's, and no caption or id is taken for HTML."""

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
from pipeline.pages.misses import WINNERS, Miss, MissReport, find_misses, write_misses
from pipeline.pages.report import write_report
from tern.evaluation.results import RetrievalMetrics
from tests.helpers.small_plan import small_plan


def slow_misses(finished, split, k):
    """(way, query) -> (rank from 1, the wrong answers that score higher, best first): dictionaries, one at a time."""
    stores = {
        "t2i": (finished.vectors.captions, finished.vectors.images),
        "i2t": (finished.vectors.images, finished.vectors.captions),
    }
    owner = {c.id: c.image_id for c in finished.features.dataset.captions} | {
        i.id: i.id for i in finished.features.dataset.images
    }
    inside = {i.id for i in finished.features.dataset.images if i.split == split}
    found = {}
    for way, folders in stores.items():
        asked, gallery = (
            {n: s.read("features", [n])[0].astype(float) for n in s.ids if owner[n] in inside}
            for s in map(Store, folders)
        )
        for query, vector in asked.items():
            scores = {name: float(sum(vector * row)) for name, row in gallery.items()}
            best = max(score for name, score in scores.items() if owner[name] == owner[query])
            ahead = [n for n in scores if scores[n] > best and owner[n] != owner[query]]
            if len(ahead) >= k:
                found[way, query] = len(ahead) + 1, sorted(ahead, key=lambda n: -scores[n])
    return found


@pytest.mark.parametrize("k", [1, 3])
def test_misses_are_those_of_a_slow_loop_and_the_figures_are_the_evaluations(finished_pipeline, k):
    found = find_misses(finished_pipeline.vectors, finished_pipeline.features.dataset, "test", k, limit=500)
    slow = slow_misses(finished_pipeline, "test", k)
    assert len(slow) > 5, "a model of three epochs misses often"
    flat = [miss for misses in found.worst.values() for miss in misses]
    assert {(m.direction, m.query): (m.rank, [name for name, _ in m.winners]) for m in flat} == {
        key: (rank, ahead[:WINNERS]) for key, (rank, ahead) in slow.items()
    }
    for way, misses in found.worst.items():
        assert [m.rank for m in misses] == sorted((m.rank for m in misses), reverse=True)
        assert found.num_missed[way] == len(misses)
        assert all(
            finished_pipeline.features.dataset.image_id_by_caption_id.get(m.relevant_id, m.relevant_id)
            == finished_pipeline.features.dataset.image_id_by_caption_id.get(m.query, m.query)
            for m in misses
        )
    measured = finished_pipeline.evaluation.splits["test"].flat()
    metrics = found.metrics.flat()
    assert metrics == {key: measured[key] for key in metrics}
    assert found.num_queries == {"t2i": measured["captions"], "i2t": measured["images"]}


class Seen(HTMLParser):
    """What a browser would take for elements, and the text between them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name for name, _ in attrs}))

    def handle_data(self, data):
        self.text.append(data)


NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</article>' onload='x",
    "a\u202ejpg.exe\x1b[2J",
)
FIGURES = RetrievalMetrics.from_flat(
    {f"{w}_{n}": 1.0 for w in ("t2i", "i2t") for n in ("r1", "r5", "r10", "medr", "meanr")} | {"rsum": 6.0}
)
ONCE = {"t2i": 1, "i2t": 1}


@pytest.mark.parametrize("nasty", NASTY)
def test_captions_and_ids_are_text_and_nothing_else(nasty, tmp_path):
    images = tuple(Image(nasty + name, tmp_path / "gone.jpg", "test") for name in "ab")
    captions = tuple(Caption(f"{i.id}#0", i.id, nasty) for i in images)
    dataset = Dataset(nasty, tmp_path, images, captions)
    a, b = (c.id for c in captions)
    worst = {
        "t2i": (Miss("t2i", a, 2, images[0].id, 0.1, ((images[1].id, 0.3),)),),
        "i2t": (Miss("i2t", images[0].id, 2, a, 0.1, ((b, 0.3),)),),
    }
    page = write_misses(tmp_path / "m.html", MissReport("test", 1, FIGURES, ONCE, ONCE, worst), dataset).read_text()
    seen = Seen(page)
    assert [tag for tag, _ in seen.tags].count("script") == 1, "the page's own"
    assert len([tag for tag, _ in seen.tags if tag == "img"]) == 4
    assert not any(name.startswith("on") for _, names in seen.tags for name in names)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_every_card_shows_the_picture_of_its_image(tmp_path):
    colors = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    for name, color in colors.items():
        PIL.Image.new("RGB", (40, 30), color).save(tmp_path / f"{name}.png")
    images = tuple(Image(name, tmp_path / f"{name}.png", "test") for name in colors)
    dataset = Dataset("x", tmp_path, images, tuple(Caption(f"of {name}", name, name) for name in colors))
    worst = {
        "t2i": (Miss("t2i", "of red", 3, "red", 0.1, (("blue", 0.3), ("green", 0.2))),),
        "i2t": (Miss("i2t", "green", 2, "of green", 0.1, (("of blue", 0.3),)),),
    }
    page = write_misses(tmp_path / "m.html", MissReport("test", 1, FIGURES, ONCE, ONCE, worst), dataset).read_text()
    shown = []
    for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page):
        picture = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(text)))).reshape(-1, 3).mean(0)
        shown.append(min(colors, key=lambda name: abs(picture - colors[name]).sum()))
    # winners, best first, then the right one; the other way the photograph asked with, then the winning captions' own
    assert shown == ["blue", "green", "red", "green", "blue"]


def test_what_cannot_be_shown_says_what_to_do(finished_pipeline, tmp_path):
    silent = replace(finished_pipeline.features.dataset, captions=())
    with pytest.raises(ValueError, match=r"no image of split 'test' has a caption.*choose another --split"):
        find_misses(finished_pipeline.vectors, silent, "test")
    with pytest.raises(ValueError, match=r"no image in split 'tset'\. Its splits are \{'train'"):
        find_misses(finished_pipeline.vectors, finished_pipeline.features.dataset, "tset")
    with pytest.raises(ValueError, match=r"m\.txt: the page of misses ends in \.html"):
        write_misses(
            tmp_path / "m.txt",
            find_misses(finished_pipeline.vectors, finished_pipeline.features.dataset, "test"),
            finished_pipeline.features.dataset,
        )


def test_the_command_writes_the_page_and_the_report_links_to_it(finished_pipeline):
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))
    page = finished_pipeline.plan.workspace / "misses-val.html"
    done = CliRunner().invoke(build_app(), ["misses", "--plan", plan, "--split", "val", "--limit", "2", "-k", "2"])
    assert done.exit_code == 0, done.output
    assert f"misses  {page}" in done.stdout
    assert page.read_text().count("<article") == sum(
        min(2, count)
        for count in find_misses(
            finished_pipeline.vectors, finished_pipeline.features.dataset, "val", 2
        ).num_missed.values()
    )
    assert 'href="misses-test.html"' in write_report(finished_pipeline).read_text()
    assert (finished_pipeline.plan.workspace / "misses-test.html").is_file()

"""Ranks, groups, comparison, TREC files and the sections of the report, on a finished run."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from data.alignment import compute_alignment_scores
from data.store import Store, read_intact_row_vectors
from pipeline.cli.app import build_app
from pipeline.pages.embedding_map import MAX_IMAGES, make_embedding_map, project_rows
from pipeline.pages.report import write_report
from pipeline.runs.quality import compare_split, measure_groups, read_other_ranks
from pipeline.stages.evaluate import find_ranks_file, read_or_compute_ranks
from tern.evaluation.ranks import EvaluationRanks, SplitRanks, read_ranks, write_ranks
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow


@pytest.fixture
def ranks(finished_pipeline):
    """The ranks of the split test, from the file of the run."""
    name = next(entry.output for entry in finished_pipeline.stages if entry.stage == "evaluation")
    return read_ranks(find_ranks_file(finished_pipeline.workspace.evaluation / name)).splits["test"]


@pytest.fixture
def workspace(finished_pipeline, tmp_path):
    """A copy of the workspace, and the name of its plan."""
    shutil.copytree(finished_pipeline.plan.workspace, tmp_path / "run")
    return tmp_path / "run", str(small_plan(tmp_path))


def invoke(*arguments: str):
    result = CliRunner().invoke(build_app(), list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_evaluation_keeps_the_rank_of_every_query(finished_pipeline, ranks):
    vectors, dataset = finished_pipeline.vectors, finished_pipeline.features.dataset.select_split("test")
    images, captions = Store(vectors.images), Store(vectors.captions)
    gallery = [image.id for image in dataset.images]
    rows, weight = read_intact_row_vectors(Store(vectors.image_rows), gallery), vectors.alignment_weight
    expected = {}
    for caption in dataset.captions:
        cosines = images.read("features", gallery).astype("f4") @ captions.read("features", [caption.id])[0].astype(
            "f4"
        )
        caption_rows = read_intact_row_vectors(Store(vectors.caption_rows), [caption.id])
        combined = (1 - weight) * cosines + weight * compute_alignment_scores(caption_rows, rows)
        expected[caption.id] = 1 + int((combined > combined[gallery.index(caption.image_id)]).sum())
    assert ranks.t2i == expected
    assert ranks.i2t.keys() == set(gallery)
    metrics = finished_pipeline.evaluation.splits["test"].reranked
    for direction, values in (("t2i", ranks.t2i), ("i2t", ranks.i2t)):
        assert metrics.model_dump()[direction]["meanr"] == pytest.approx(sum(values.values()) / len(values))


def test_ranks_are_computed_again_if_only_they_are_missing(workspace, ranks):
    root, plan = workspace
    (path,), (metrics,) = root.glob("evaluation/ranks-*.json"), root.glob("evaluation/metrics-*.json")
    content, metrics_content = path.read_bytes(), metrics.read_bytes()
    path.unlink()
    invoke("misses", "--plan", plan, "--against", read_only_model(root))
    invoke("report", "--plan", plan)
    assert not path.exists(), "a command that reads writes no ranks"
    vectors_before = sorted(root.glob("vectors/*/*"))
    assert "text to image" in invoke("evaluate", "--plan", plan)
    assert (path.read_bytes(), metrics.read_bytes()) == (content, metrics_content)
    assert sorted(root.glob("vectors/*/*")) == vectors_before


def read_only_model(root):
    (name,) = (path.name for path in (root / "models").iterdir())
    return name


def test_groups_divide_the_queries(finished_pipeline, ranks):
    dataset = finished_pipeline.features.dataset
    rows = measure_groups(finished_pipeline.plan, dataset, "test", ranks)
    metrics = finished_pipeline.evaluation.splits["test"].reranked
    for direction, found in (("t2i", metrics.t2i), ("i2t", metrics.i2t)):
        total, *others = [row for row in rows if row.direction == direction]
        assert (total.kind, total.metrics.r1.value, total.metrics.r10.value) == ("", found.r1, found.r10)
        for kind in {row.kind for row in others} - {"words of the caption"}:
            parts = [row.metrics for row in others if row.kind == kind]
            assert sum(part.num_queries for part in parts) == total.metrics.num_queries
            hits = sum(part.num_queries * part.mrr for part in parts)
            assert hits == pytest.approx(total.metrics.num_queries * total.metrics.mrr)
    boxes = json.loads((finished_pipeline.workspace.dataset / "boxes.json").read_text())["images"]
    counts = [len(boxes[image.id]["labels"]) - 1 for image in dataset.select_split("test").images]
    by_name = {row.name: row.metrics for row in rows if (row.direction, row.kind) == ("i2t", "objects in the image")}
    assert sum(metrics.num_queries for metrics in by_name.values()) == len(counts)
    assert by_name.get("2 objects", by_name.get("3 objects")) is not None
    assert all(by_name[f"{n} objects"].num_queries == counts.count(n) for n in (2, 3, 4, 5) if n in counts)
    captions = {caption.id: caption.text for caption in dataset.select_split("test").captions}
    colors = [name for name, text in captions.items() if re.search(r"\b(red|blue|green|white|black|pink)\b", text)]
    with_colors = next(row.metrics for row in rows if row.name == "color")
    assert 0 < with_colors.num_queries <= len(captions)
    assert with_colors.num_queries >= len(colors) - 3, "words of places do not count"


def test_groups_of_other_datasets_are_those_by_length(finished_pipeline, ranks):
    plan = finished_pipeline.plan.model_copy(update={"demo": None})
    rows = measure_groups(plan, finished_pipeline.features.dataset, "test", ranks)
    assert {row.kind for row in rows} == {"", "caption length"}


def test_evaluate_prints_groups_and_writes_trec_files_once(workspace, tmp_path):
    root, plan = workspace
    folder = tmp_path / "trec"
    output = invoke("evaluate", "--plan", plan, "--groups", "--trec", str(folder))
    assert "fewer than 20 queries" in output
    assert "words of the caption: noun: person" in output
    names = {f"{split}-{direction}.{kind}" for split in ("val", "test") for direction in ("t2i", "i2t")
             for kind in ("qrels", "run")}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    run = [line.split(" ") for line in (folder / "test-t2i.run").read_text().splitlines()]
    assert len(run) == 30 * 6
    assert {line[5] for line in run} == {read_only_model(root)}
    (folder / "test-t2i.run").write_text("mine")
    result = CliRunner().invoke(build_app(), ["evaluate", "--plan", plan, "--trec", str(folder)])
    assert isinstance(result.exception, FileExistsError)
    assert (folder / "test-t2i.run").read_text() == "mine"
    invoke("evaluate", "--plan", plan, "--trec", str(folder), "--force")
    assert len((folder / "test-t2i.run").read_text().splitlines()) == len(run)


class _Text(HTMLParser):
    """The texts and the tags of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def write_two_ranks(root, folder, ranks):
    """Ranks of the run with two hits, and of another evaluation that misses them and hits the three worst.

    Returns the two and the three queries.
    """
    order = sorted(ranks.t2i, key=ranks.t2i.__getitem__)
    hits, worst = order[:2], order[-3:]
    own = {query: max(rank, 2) for query, rank in ranks.t2i.items()} | dict.fromkeys(hits, 1)
    (path,) = root.glob("evaluation/ranks-*.json")
    splits = read_ranks(path).splits
    write_ranks(path, EvaluationRanks(splits=splits | {"test": SplitRanks(t2i=own, i2t=ranks.i2t)}))
    other = own | dict.fromkeys(hits, 2) | dict.fromkeys(worst, 1)
    write_ranks(folder / "ranks-1.json", EvaluationRanks(splits={"test": SplitRanks(t2i=other, i2t=ranks.i2t)}))
    (folder / "metrics-1.json").write_text("{}")
    return hits, worst


def test_misses_show_queries_won_and_lost(finished_pipeline, workspace, ranks, tmp_path):
    root, plan = workspace
    won, lost = write_two_ranks(root, tmp_path, ranks)
    page_path = tmp_path / "m.html"
    for against in ("ranks-1.json", "metrics-1.json"):
        arguments = ["--against", str(tmp_path / against), "--limit", "4", "--output", str(page_path), "--force"]
        output = invoke("misses", "--plan", plan, *arguments)
        assert "against  ranks-1.json" in output
        assert "-3.3 points" in output
        assert "2 won, 3 lost, p = 1.000" in output
    page, captions = _Text(page_path.read_text()), finished_pipeline.features.dataset.captions_by_id
    assert "Compared with ranks-1.json" in page.text
    assert "2 queries won, text to image" in page.text
    assert [captions[query].text in page.text for query in won] == [True, True]
    shown = [attrs for tag, attrs in page.tags if tag == "article"]
    assert [attrs["data-lost"] for attrs in shown][:4] == ["1", "1", "1", "0"], "the lost ones come first"
    assert {attrs["data-name"] for attrs in shown[:3]} == set(lost)


def test_model_is_compared_by_its_name(finished_pipeline, ranks):
    name, other_ranks = read_other_ranks(finished_pipeline.plan, finished_pipeline.model.name, "test")
    assert (name, other_ranks) == (finished_pipeline.model.name, ranks)
    same = compare_split(ranks, (name, other_ranks), finished_pipeline.features.dataset, k=1).directions["i2t"]
    assert (same.won, same.lost, same.difference, same.low, same.high, same.num_unshared) == ((), (), 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("against", "error", "message"),
    [
        ("nothing", FileNotFoundError, "no trained model 'nothing'"),
        ("gone/ranks-1.json", FileNotFoundError, "does not exist. Pass a file"),
        ("metrics-1.json", FileNotFoundError, "with the ranks of metrics-1.json does not exist. Run `tern evaluate`"),
        ("ranks-2.json", ValueError, "has no split|no ranks of split 'test'; it has none"),
        ("ranks-3.json", ValueError, "does not hold ranks"),
    ],
)
def test_evaluation_to_compare_with_must_exist(against, error, message, finished_pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics-1.json").write_text("{}")
    (tmp_path / "ranks-2.json").write_text('{"version": 1, "splits": {}}')
    (tmp_path / "ranks-3.json").write_text('{"version": 1}')
    with pytest.raises(error, match=message):
        read_other_ranks(finished_pipeline.plan, against, "test")


def test_report_has_groups_and_a_map_without_scripts(finished_pipeline):
    text = write_report(finished_pipeline, with_misses_page=False).read_text()
    page = _Text(text)
    circles = [attrs["class"] for tag, attrs in page.tags if tag == "circle"]
    assert (circles.count("image"), circles.count("caption")) == (6, 30)
    assert not [attrs for tag, attrs in page.tags if tag == "script"]
    assert not re.findall(r'(?:src|href)="https?:', text)
    captions = finished_pipeline.features.dataset.select_split("test").captions
    assert all(caption.text in page.text for caption in captions), "the titles of the points"
    assert "caption length" in page.text
    assert "* Fewer than 20 queries." in page.text


def test_map_takes_some_images_of_a_large_split_with_all_their_captions(finished_pipeline, monkeypatch):
    monkeypatch.setattr("pipeline.pages.embedding_map.MAX_IMAGES", 2)
    dataset = finished_pipeline.features.dataset
    drawn = make_embedding_map(finished_pipeline.vectors, dataset, "test")
    assert MAX_IMAGES > 2
    assert (drawn.num_images, drawn.total_images) == (2, 6)
    images = [point.title for point in drawn.points if point.kind == "image"]
    titles = {f"{c.text} ({c.image_id})" for c in dataset.captions if c.image_id in images}
    assert {point.title for point in drawn.points if point.kind == "caption"} == titles
    assert all(0 <= point.x <= drawn.width and 0 <= point.y <= drawn.height for point in drawn.points)
    without = replace(dataset, captions=())
    few = without.exclude_images({image.id for image in without.select_split("test").images[2:]})
    assert make_embedding_map(finished_pipeline.vectors, few, "test") is None


def test_projection_is_that_of_the_singular_vectors():
    rows = np.random.default_rng(0).normal(size=(40, 7)) * [9, 1, 1, 4, 1, 1, 1]
    positions, explained = project_rows(rows)
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.abs(positions) == pytest.approx(np.abs(left[:, :2] * values[:2]))
    assert explained == pytest.approx((100 * values[:2] ** 2 / (values**2).sum()).tolist())
    assert np.all(positions[np.abs(positions).argmax(axis=0), [0, 1]] > 0)


def test_ranks_of_a_split_that_no_file_has_are_computed(finished_pipeline, ranks):
    inputs = finished_pipeline.vectors, finished_pipeline.features.dataset, finished_pipeline.workspace
    config = finished_pipeline.plan.evaluate
    assert read_or_compute_ranks(*inputs, "test", config) == ranks
    train = read_or_compute_ranks(*inputs, "train", config)
    assert (len(train.i2t), len(train.t2i)) == (24, 120)

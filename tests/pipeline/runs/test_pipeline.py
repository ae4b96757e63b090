"""The whole pipeline on demo scenes: repeated, killed and resumed, by command and by call; queries and their hits."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data.config import DatasetConfig
from data.io.digests import sha256_file
from data.store.store import Store
from index.versions.switch import verify_version
from pipeline.cli.app import build_app
from pipeline.pages.gallery import write_gallery
from pipeline.pages.report import write_report
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.torchrun_training import train_together
from pipeline.search.searcher import Searcher
from pipeline.stages.evaluate import evaluate_splits
from pipeline.stages.extract import extract_regions
from pipeline.workers import HASH_IMAGES
from pipeline.workspace import Workspace
from tern.config import EvaluationConfig
from tests.helpers.repeats import RUN_KILLS
from tests.helpers.reranked import score_images
from tests.helpers.small_plan import extract_features, small_plan
from tests.reference.recall import slow_recall

pytestmark = pytest.mark.slow

LASTING = ("stores", "vectors", "index/versions", "models", "evaluation")


def hashes(workspace: Path) -> dict[str, str]:
    """Hash the permanent files of a run, except `last.pt`, whose ZIP entries contain the name of a temporary file."""
    files = [path for part in LASTING for path in sorted((workspace / part).rglob("*")) if path.is_file()]
    names = {p: str(p.relative_to(workspace)) for p in files if p.suffix != ".pt" and p.name != ".lock"}
    return {name: _untimed(p) if "index/versions" in name else sha256_file(p) for p, name in names.items()}


def _untimed(manifest: Path) -> str:
    """Return a manifest without its hash and without the milliseconds that the gate measured."""
    content = json.loads(manifest.read_text())
    for name, check in content["gate"]["checks"].items():
        if name.endswith("latency"):
            assert check.pop("value") > 0
    return json.dumps(content | {"sha256": ""})


@pytest.fixture(scope="module")
def searcher(finished_pipeline):
    return Searcher(finished_pipeline.plan)


def test_second_run_repeats_no_stage(finished_pipeline):
    before = {
        p: p.stat().st_mtime_ns
        for p in finished_pipeline.plan.workspace.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    began = time.perf_counter()
    again = PipelineRunner(finished_pipeline.plan).run_all()
    assert again.index == finished_pipeline.index
    assert again.evaluation == finished_pipeline.evaluation
    assert again.model == finished_pipeline.model
    assert time.perf_counter() - began < 20
    changed = [p for p, stamp in before.items() if p.stat().st_mtime_ns != stamp]
    assert [p.name for p in changed if p.name not in ("stages.jsonl", ".writer", "hashes.json")] == []


def run_all(path: str) -> None:
    finished = PipelineRunner(load_plan(path)).run_all()
    assert finished.index
    assert finished.evaluation


def newest(folder: Path) -> float:
    """Return the latest modification time below a folder."""
    return max((p.stat().st_mtime for p in folder.rglob("*") if p.exists()), default=0.0)


def test_run_killed_at_random_moments_gives_the_same_files(finished_pipeline, tmp_path):
    path = small_plan(tmp_path)
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    # A server that has imported everything forks the runs, so that kills hit the stages and not the imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.runs.runner", "tests.pipeline.runs.test_pipeline"])
    rng, kills = np.random.default_rng(3), 0
    for pause in rng.uniform(0.0, 1.5, RUN_KILLS):
        began = newest(tmp_path)
        child = context.Process(target=run_all, args=(str(path),))
        child.start()
        deadline = time.monotonic() + 60
        while newest(tmp_path / "run") <= began and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        child.join(pause)
        kills += child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert 2 * kills >= RUN_KILLS, "most runs ended before they were killed, so the test shows little"
    run_all(str(path))
    assert hashes(tmp_path / "run") == hashes(finished_pipeline.plan.workspace)


def test_worker_processes_give_the_same_store(finished_pipeline, tmp_path):
    from pipeline.workers import make_process_map

    plan = load_plan(str(small_plan(tmp_path, workers=2)))
    process_map = make_process_map(2, "region features")
    regions = extract_regions(
        plan.regions, finished_pipeline.features.dataset, Workspace(tmp_path), plan.images_per_shard, process_map
    )
    assert regions.name == finished_pipeline.features.regions.name
    ours, theirs = Store(regions), Store(finished_pipeline.features.regions)
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.read("class_ids", ours.ids), theirs.read("class_ids", ours.ids))
    difference = ours.read("features", ours.ids).astype("f4") - theirs.read("features", ours.ids).astype("f4")
    assert np.abs(difference).max() < 2e-2, "one and two threads differ by the order of additions only"


def test_metrics_equal_a_slow_loop_over_the_vector_stores(finished_pipeline):
    images, captions = Store(finished_pipeline.vectors.images), Store(finished_pipeline.vectors.captions)
    part = finished_pipeline.features.dataset.select_split("test")
    scores = {
        caption.id: {
            image.id: float(
                images.read("features", [image.id])[0].astype("f4")
                @ captions.read("features", [caption.id])[0].astype("f4")
            )
            for image in part.images
        }
        for caption in part.captions
    }
    expected = slow_recall(scores, part.image_id_by_caption_id)
    found = finished_pipeline.evaluation.splits["test"].flat()
    assert {key: pytest.approx(value) for key, value in expected.items()} == {key: found[key] for key in expected}


def test_image_without_captions_is_a_candidate_but_no_query(finished_pipeline, tmp_path):
    """An image without captions is a candidate and gives no query; a removed image is not a candidate either."""
    dataset, name = (
        finished_pipeline.features.dataset,
        finished_pipeline.features.dataset.select_split("test").images[0].id,
    )
    without_captions = replace(dataset, captions=tuple(c for c in dataset.captions if c.image_id != name))
    with_it, without = (
        evaluate_splits(finished_pipeline.vectors, d, Workspace(tmp_path))
        for d in (without_captions, dataset.exclude_images({name}))
    )
    assert with_it != without
    counts = [json.loads(path.read_text())["test"]["images"] for path in (with_it, without)]
    assert counts == [6, 5]


def test_incomplete_last_line_of_the_stage_log_is_ignored(finished_pipeline, tmp_path):
    plan = finished_pipeline.plan.model_copy(update={"workspace": tmp_path})
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "dataset")
    (tmp_path / "stages.jsonl").write_text('{"stage": "data s')
    runner = PipelineRunner(plan)
    assert len(runner.load_dataset().images) == 36
    assert [(entry.stage, entry.seconds > 0) for entry in runner.list_finished_stages()] == [("dataset", True)]


def test_typed_query_gives_the_vector_of_the_stored_caption(finished_pipeline, searcher):
    store = Store(finished_pipeline.vectors.captions)
    for caption in finished_pipeline.features.dataset.captions[::29]:
        stored = store.read("features", [caption.id])[0].astype("float32")
        np.testing.assert_allclose(searcher.embed_text(caption.text)[0], stored, atol=4e-3)


def test_photo_gives_the_vector_of_the_stored_image(finished_pipeline, searcher):
    store = Store(finished_pipeline.vectors.images)
    for image in finished_pipeline.features.dataset.images[::9]:
        stored = store.read("features", [image.id])[0].astype("float32")
        np.testing.assert_allclose(searcher.embed_image(image.path)[0], stored, atol=4e-3)


def test_hits_are_exact_and_have_path_captions_and_regions(finished_pipeline, searcher):
    text = "two dogs are running along the street"
    scores = score_images(searcher, finished_pipeline.vectors, text)
    hits = searcher.search_text(text, 5)
    assert {hit.id for hit in hits} == set([*scores][:5])
    np.testing.assert_allclose([hit.score for hit in hits], [*scores.values()][:5], atol=1e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert hit.path == finished_pipeline.features.dataset.images_by_id[hit.id].path
        assert hit.captions == tuple(
            caption.text for caption in finished_pipeline.features.dataset.captions_by_image_id[hit.id]
        )
        width, height = Image.open(hit.path).size
        assert all(0 <= r.box[0] < r.box[2] <= width and 0 <= r.box[1] < r.box[3] <= height for r in hit.regions)
        assert len(hit.regions) <= 2
    assert len(searcher.search_image(hits[0].path, 7)) == 7


@pytest.mark.parametrize("sentence", ["", "   ", "x" * 5000])
def test_empty_and_overlong_queries_are_rejected(searcher, sentence):
    with pytest.raises(ValueError, match="1 to 2,000 characters"):
        searcher.search_text(sentence)


def test_index_is_asked_with_its_own_extractor_or_not_at_all(finished_pipeline, tmp_path):
    """A plan whose extractor has changed: the query side of the model has the former one; torch would load another."""
    plan = finished_pipeline.plan
    changed = plan.model_copy(update={"text": plan.text.model_copy(update={"max_tokens": 7})})
    text = "two dogs are running along the street in front of a house"
    np.testing.assert_array_equal(Searcher(changed).embed_text(text), Searcher(plan).embed_text(text))
    shutil.copytree(plan.workspace, tmp_path / "run")
    for path in (tmp_path / "run").rglob("query.json"):
        path.unlink()
    moved = {"workspace": tmp_path / "run"}
    with pytest.raises(ValueError, match="another extractor"):
        Searcher(changed.model_copy(update=moved))
    in_torch = Searcher(plan.model_copy(update=moved)).embed_text(text)
    np.testing.assert_allclose(in_torch, Searcher(plan).embed_text(text), atol=1e-5)


@pytest.fixture
def moved(finished_pipeline, tmp_path):
    """Plan of a copy of the finished run, with the dataset as plain files that a test may change."""
    shutil.copytree(finished_pipeline.plan.workspace, tmp_path / "run")
    folder = tmp_path / "run" / "dataset"
    dataset = DatasetConfig(name="demo", annotations=folder / "dataset_demo.json", images=folder / "images")
    return finished_pipeline.plan.model_copy(update={"workspace": tmp_path / "run", "demo": None, "dataset": dataset})


def rows(version: Path) -> tuple[int, int]:
    kinds = json.loads(version.read_text())["collections"]
    return kinds["image"]["counts"]["live"], kinds["caption"]["counts"]["live"]


def test_index_update_adds_new_images_and_drops_unreadable_ones(finished_pipeline, moved):
    model = moved.workspace / "models" / finished_pipeline.model.name
    gone, new = finished_pipeline.features.dataset.images[3], finished_pipeline.features.dataset.images[4]
    (moved.dataset.images / "new.jpg").write_bytes(new.path.read_bytes() + b"\0")
    annotations = json.loads(moved.dataset.annotations.read_text())
    entry = next(e for e in annotations["images"] if e["filename"] == new.id)
    annotations["images"].append({**entry, "filename": "new.jpg"})
    moved.dataset.annotations.write_text(json.dumps(annotations))
    victim = moved.dataset.images / gone.id
    victim.write_bytes(victim.read_bytes()[:900])
    num_items_of_jobs: list[int] = []

    def make_recording_map(label):
        if label == HASH_IMAGES:  # not shards, but files to hash: the copied ones have other times
            return map
        return lambda function, jobs: [num_items_of_jobs.append(job.num_items) or function(job) for job in jobs]

    runner = PipelineRunner(moved, make_recording_map)
    vectors = runner.embed(runner.extract(runner.load_dataset()), model)
    published = runner.publish_index(vectors)
    assert rows(published) == (
        len(finished_pipeline.features.dataset.images),
        len(finished_pipeline.features.dataset.captions),
    )
    assert num_items_of_jobs == [2, 5, 1, 5], (
        "two images and five captions to extract, one image and five captions to embed"
    )
    assert [record.name for record in vectors.features.invalid_records] == [gone.id]
    searcher = Searcher(moved)
    found = {
        hit.id
        for hit in searcher.search_text(finished_pipeline.features.dataset.captions_by_image_id[new.id][0].text, 40)
    }
    assert {"new.jpg", new.id} <= found
    assert gone.id not in found
    verify_version(moved.workspace / "index")
    runner = PipelineRunner(moved)
    vectors = runner.embed(runner.extract(runner.load_dataset()), model)
    assert runner.publish_index(vectors) == published, "without changes no version is created"


def test_model_rejects_features_of_another_extractor(finished_pipeline, moved):
    other = moved.model_copy(update={"text": moved.text.model_copy(update={"layer": 3})})
    with pytest.raises(ValueError, match=r"was trained on tokens-.*changed"):
        PipelineRunner(other).embed(extract_features(other), moved.workspace / "models" / finished_pipeline.model.name)


def test_search_works_after_an_image_became_unreadable(finished_pipeline, moved):
    victim = moved.dataset.images / finished_pipeline.features.dataset.images[3].id
    text = finished_pipeline.features.dataset.captions_by_image_id[victim.name][0].text
    victim.write_bytes(b"no longer an image")
    assert victim.name in Store(extract_features(moved).regions).invalid_items
    assert victim.name in {hit.id for hit in Searcher(moved).search_text(text, 36)}, "the published index still has it"


def test_validation_split_without_captions_raises_before_training(moved):
    annotations = json.loads(moved.dataset.annotations.read_text())
    for entry in annotations["images"]:
        if entry["split"] == "val":
            entry["sentences"] = []
    moved.dataset.annotations.write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match=r"needs .* 1 in 'val', but 'val' has 0"):
        train_together(PipelineRunner(moved))


def test_commands_give_the_results_of_the_calls(finished_pipeline, tmp_path):
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))
    run = CliRunner()
    found = run.invoke(build_app(), ["search", "two dogs on the street", "--plan", plan, "-k", "3"])
    assert found.exit_code == 0, found.output
    expected = Searcher(finished_pipeline.plan).search_text("two dogs on the street", 3)
    assert [line.split()[2] for line in found.stdout.splitlines()] == [hit.id for hit in expected]
    photo = str(finished_pipeline.features.dataset.images[0].path)
    page = tmp_path / "hits.html"
    found = run.invoke(build_app(), ["search", "--image", photo, "--plan", plan, "--gallery", str(page)])
    assert found.exit_code == 0, found.output
    assert page.read_text().count("data:image/jpeg") == 8
    for command in ("extract", "train", "evaluate", "index", "report"):
        found = run.invoke(build_app(), [command, "--plan", plan])
        assert found.exit_code == 0, found.output
    assert run.invoke(build_app(), ["search"]).exit_code == 2
    assert "demo" in run.invoke(build_app(), ["plans"]).stdout


def test_folds_and_ndcg_are_measured_if_configured(finished_pipeline, tmp_path):
    plain = {name: split.flat() for name, split in finished_pipeline.evaluation.splits.items()}
    config = EvaluationConfig(folds=2, ndcg=True)
    path = evaluate_splits(
        finished_pipeline.vectors, finished_pipeline.features.dataset, Workspace(tmp_path), config=config
    )
    assert not (finished_pipeline.workspace.evaluation / path.name).exists()
    for split, found in json.loads(path.read_text()).items():
        assert {key: found[key] for key in plain[split]} == plain[split]
        assert {"fold_rsum", "t2i_ndcg_rougeL", "fold_i2t_ndcg_rougeL"} < found.keys()


def test_report_shows_queries_metrics_curves_and_stages(finished_pipeline):
    text = write_report(finished_pipeline).read_text()
    for part in (
        "two dogs are running along the street",
        "data:image/svg+xml",
        "text to image",
        "<h2>Stages</h2>",
    ):
        assert part in text
    assert "http://" not in text.replace("http://www.w3.org", ""), "the page needs no other file"
    assert {entry.stage for entry in finished_pipeline.stages} >= {"training", "index", "region features"}


def test_gallery_is_page_or_image_and_escapes_texts(finished_pipeline, searcher, tmp_path):
    hits = searcher.search_text("a dog", 5)
    nasty = [type(hits[0])("<b>.jpg", 0.5, tmp_path / "gone.jpg", ("<script>alert(1)</script>",)), *hits]
    assert "<script>" not in write_gallery(tmp_path / "a.html", "<i>q</i>", nasty).read_text()
    assert Image.open(write_gallery(tmp_path / "a.png", "q", nasty)).width > 1000
    with pytest.raises(ValueError, match=r"ends in neither \.html nor \.png"):
        write_gallery(tmp_path / "a.gif", "q", hits)

"""All stages from the embedding on with no captions, few captions, and captions that appear and vanish."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from data.manifest import manifest as store_manifest
from data.store import Store
from index.building import publish
from index.collection import Collection
from index.config import IndexConfig
from index.quality.checks import live_keys
from index.search import Index
from index.tuning import TuningLimits
from index.versions import folder, read_current, read_version_manifest, verify_version
from index.versions.switch import RejectedError
from pipeline.pages.misses import find_misses
from pipeline.pages.report import write_report
from pipeline.runs.runner import Finished, PipelineRunner
from pipeline.search.searcher import Searcher
from pipeline.stages.tune import advise_index_settings
from tern.model import Calibration, CalibrationQueries, write_calibration
from tests.reference.index import exact_ids

pytestmark = pytest.mark.slow
LISTS = {"index": IndexConfig(shards=2, nlist=4, factory="IVF{nlist},Flat", target_recall=0.9)}
QUERY = "two dogs are running along the street"


def make_dataset(finished, num_captions: int):
    """Return the dataset of the finished run with its first captions; the first images are of `train`."""
    dataset = finished.features.input_dataset
    return replace(dataset, captions=dataset.captions[:num_captions])


def run_stages(plan, dataset, model, is_update: bool = False) -> Finished:
    """Run the stages of an uncaptioned dataset: extraction, embedding, evaluation, and a build or an update."""
    runner = PipelineRunner(plan)
    vectors = runner.embed(runner.extract(dataset), model)
    index = runner.update_index(vectors) if is_update else runner.publish_index(vectors)
    return Finished(plan, vectors, runner.evaluate(vectors), index, runner.list_finished_stages())


def make_calibration(finished) -> Calibration:
    """Make a calibration from the vectors of the training split, which the uncaptioned dataset does not ask."""

    def read(folder, ids):
        vectors, zeros = Store(folder).read("features", ids).astype(np.float32), np.zeros(len(ids), np.float32)
        return CalibrationQueries(tuple(ids), vectors, zeros, zeros - 1)

    part = finished.features.dataset.select_split("train")
    captions = read(finished.vectors.captions, [caption.id for caption in part.captions][:40])
    images = read(finished.vectors.images, [image.id for image in part.images][:20])
    return Calibration("train", len(part.images), len(part.captions), captions, images)


@pytest.fixture
def copy(finished_pipeline, tmp_path):
    """(plan, model) of a copy of the finished workspace without its index."""
    root = tmp_path / "run"
    shutil.copytree(finished_pipeline.plan.workspace, root, ignore=shutil.ignore_patterns("index", "*.html"))
    plan = finished_pipeline.plan.model_copy(update={"workspace": root})
    return plan, root / "models" / finished_pipeline.model.name


CASES = [
    # captions, calibration -> source of the queries of the images, of the captions
    (0, False, "self", None),
    (0, True, "calibration", None),
    (1, False, "self", "self"),
    (1, True, "calibration", "calibration"),
    (2, False, "dataset", "self"),
    (10, False, "dataset", "dataset"),
    (10, True, "calibration", "calibration"),
]


@pytest.mark.parametrize(("num_captions", "is_calibrated", "images", "captions"), CASES)
def test_index_of_few_captions_names_its_queries_and_their_recall(
    num_captions, is_calibrated, images, captions, copy, finished_pipeline
):
    (plan, model), dataset = copy, make_dataset(finished_pipeline, num_captions)
    plan = plan.model_copy(update=LISTS)
    if is_calibrated:
        write_calibration(model, make_calibration(finished_pipeline))
    finished = run_stages(plan, dataset, model)
    manifest = verify_version(plan.workspace / "index", 1)
    found = {kind: collection.recall.query_source for kind, collection in manifest.collections.items()}
    assert found == {"image": images} | ({"caption": captions} if captions else {})
    assert manifest.gate.passed
    assert manifest.gate.query_sources == found
    reason = manifest.gate.not_checked.get("caption recall")
    assert reason == (None if captions else "the version has no captions")
    assert ("image success@10" in manifest.gate.not_checked) == (images in ("self", "calibration"))
    assert finished.evaluation.splits == {}, "val and test have no captions"
    report = manifest.collections["image"].recall
    if is_calibrated:
        queries = make_calibration(finished_pipeline).caption.vectors.astype(np.float16).astype(np.float32)
        test_queries = queries[np.random.Generator(np.random.PCG64(0)).permutation(len(queries))[1::2]]
        with Index.open(plan.workspace / "index") as index:
            hits = [[hit.id for hit in line] for line in index.search(test_queries, 10)]
            collection = index.collection("image")
            everything = _make_plain(collection)
        exact = exact_ids(everything, test_queries, 10)
        recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(hits, exact, strict=True)])
        assert report.recall == pytest.approx(recall, abs=1e-4)
        assert (report.num_tuning_queries, report.num_test_queries) == (20, 20)


def _make_plain(collection):
    """Return ids and vectors of a collection as `tests.reference.index` reads them."""
    keys = live_keys(collection)
    rows = collection.rows.by_key(keys.tolist())
    return Collection([rows[key].id for key in keys.tolist()], collection.vectors.get(keys).astype(np.float32), [])


def test_everything_works_or_says_why_not_without_captions(copy, finished_pipeline):
    plan, model = copy
    dataset = make_dataset(finished_pipeline, 0)
    finished = run_stages(plan, dataset, model)
    assert len(Store(finished.vectors.captions)) == 0
    assert read_version_manifest(plan.workspace / "index").collections["image"].is_exact
    searcher = Searcher(plan)
    hits, expected = searcher.search_text(QUERY, 5), Searcher(finished_pipeline.plan).search_text(QUERY, 5)
    assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in expected]
    assert all(hit.captions == () and len(hit.regions) == 2 for hit in hits)
    with pytest.raises(ValueError, match=r"index has no captions.*Search images with a text query, or add captions"):
        searcher.search_image(dataset.images[0].path)
    assert not searcher.search_text(QUERY, 5, "caption like '%dog%'"), "no image has such a caption"
    with pytest.raises(ValueError, match=r"the dataset has no captions\. Add some to measure what a query finds"):
        find_misses(finished.vectors, finished.features.dataset, "test")
    limits = TuningLimits(max_latency_s=10.0)
    advice = advise_index_settings("image", limits, finished.vectors, finished.features.dataset)
    assert (set(advice.chosen), advice.calibrated) == ({"image"}, ())
    write_calibration(model, make_calibration(finished_pipeline))
    advice = advise_index_settings("image", limits, finished.vectors, finished.features.dataset, 0, model)
    assert (set(advice.chosen), advice.calibrated) == ({"text", "image"}, ("text",))
    with pytest.raises(ValueError, match=r"demo has no captions, so there are no captions to tune\. Pass --kind image"):
        advise_index_settings("caption", limits, finished.vectors, finished.features.dataset)
    page = write_report(finished).read_text(encoding="utf-8")
    assert "36 images without captions, searched with a text." in page
    assert "The dataset has no captions, so there are no metrics and no photo queries." in page
    assert "caption alignment, caption latency, caption recall, caption success@10: the version has no captions" in page
    for heading in ("Photo queries", "Metrics of the held-out splits", "Worst misses", 'class="numbers"', "<th>split"):
        assert heading not in page
    assert not re.search(r"<table>\s*(<tr>(<th>[^<]*</th>)*</tr>\s*)?</table>", page), "no table is empty"


@pytest.mark.parametrize("is_update", [True, False], ids=["update", "build"])
def test_captions_vanish_and_appear_again(is_update, copy, finished_pipeline):
    plan, model = copy
    run_stages(plan, finished_pipeline.features.input_dataset, model)
    root, before = plan.workspace / "index", Searcher(plan).search_text(QUERY, 5)
    with pytest.raises(RejectedError, match="captions of the served version are gone"):
        run_stages(plan, make_dataset(finished_pipeline, 0), model, is_update)
    assert read_current(root).version == 1, "the version with captions is still served"
    allowed = plan.model_copy(update={"gate": plan.gate.model_copy(update={"max_removed_fraction": 1})})
    run_stages(allowed, make_dataset(finished_pipeline, 0), model, is_update)
    version = read_current(root).version
    assert list(verify_version(root, version).collections) == ["image"]
    hits = Searcher(plan).search_text(QUERY, 5)
    assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in before]
    assert run_stages(allowed, make_dataset(finished_pipeline, 0), model, is_update).index.stem == f"v{version:08d}"
    finished = run_stages(plan, finished_pipeline.features.input_dataset, model, is_update)
    assert Searcher(plan).search_text(QUERY, 5) == before, "ids, scores, captions and regions"
    assert finished.evaluation == finished_pipeline.evaluation


class Killed(BaseException):
    """Ends the process at a step."""


def test_kill_in_an_update_after_which_captions_are_gone(copy, finished_pipeline, monkeypatch):
    """Each run ends after its first write, so each goes one write further; the last one has nothing left to write."""
    plan, model = copy
    plan = plan.model_copy(update={"gate": plan.gate.model_copy(update={"max_removed_fraction": 1})})
    run_stages(plan, finished_pipeline.features.input_dataset, model)
    places = (
        (store_manifest, "write_json"),
        (publish, "write_manifest"),
        (folder, "write_json"),
    )

    def die_after(call):
        def run(*arguments, **options):
            call(*arguments, **options)
            raise Killed

        return run

    num_kills = 0
    while True:
        with monkeypatch.context() as patch:
            for place, name in places:
                patch.setattr(place, name, die_after(getattr(place, name)))
            try:
                finished = run_stages(plan, make_dataset(finished_pipeline, 0), model, is_update=True)
                break
            except Killed:
                has_captions = bool(Searcher(plan).search_text(QUERY, 1)[0].captions)
        num_kills += 1
        assert has_captions == (read_current(plan.workspace / "index").version == 1)
    assert num_kills >= 4, "in both stores, after the manifest and after the switch"
    assert list(verify_version(plan.workspace / "index").collections) == ["image"]
    assert len(Store(finished.vectors.captions)) == 0

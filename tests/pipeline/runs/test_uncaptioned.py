"""All stages from the embedding on with no captions, few captions, and captions that appear and vanish."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from data.manifest import manifest as store_manifest
from data.store import Store
from index.building import publish
from index.collection import Collection
from index.config import IndexConfig
from index.quality.checks import live_keys
from index.search import HotReloader, Index
from index.tuning import TuningLimits
from index.versions import folder, read_current, read_version_manifest, verify_version
from index.versions.switch import RejectedError
from pipeline.cli.app import build_app
from pipeline.pages.misses import find_misses
from pipeline.pages.report import write_report
from pipeline.search.query import make_text_query
from pipeline.search.searcher import Searcher
from pipeline.stages.tune import advise_index_settings
from tern.query import write_calibration
from tests.helpers.small_plan import small_plan
from tests.helpers.uncaptioned import copy_without_index, keep_captions, make_calibration, run_stages
from tests.reference.index import exact_ids

pytestmark = pytest.mark.slow
LISTS = {"index": IndexConfig(shards=2, nlist=4, factory="IVF{nlist},Flat", target_recall=0.9)}
QUERY = "two dogs are running along the street"


@pytest.fixture
def copy(finished_pipeline, tmp_path):
    """(plan, model) of a copy of the finished workspace without its index."""
    return copy_without_index(finished_pipeline, tmp_path / "run")


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
    (plan, model), dataset = copy, keep_captions(finished_pipeline, num_captions)
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
    dataset = keep_captions(finished_pipeline, 0)
    finished = run_stages(plan, dataset, model)
    assert len(Store(finished.vectors.captions)) == 0
    assert read_version_manifest(plan.workspace / "index").collections["image"].is_exact
    searcher = Searcher(plan)
    hits, expected = searcher.search_text(QUERY, 5), Searcher(finished_pipeline.plan).search_text(QUERY, 5)
    assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in expected]
    assert all(hit.captions == () and len(hit.regions) <= 2 for hit in hits)
    with pytest.raises(ValueError, match=r"index has no captions.*Search for images .*, or add captions"):
        searcher.search_image(dataset.images[0].path)
    words = ["search", "--image", str(dataset.images[0].path), "--plan", str(small_plan(plan.workspace.parent))]
    similar = CliRunner().invoke(build_app(), [*words, "--paths"])
    assert "The index has no captions, so images are ranked" in similar.stderr
    assert len(similar.stdout.splitlines()) == 8
    assert "no captions" in str(CliRunner().invoke(build_app(), [*words, "--for", "captions"]).exception)
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
    assert "<dt>Images</dt><dd>36</dd>\n<dt>Captions</dt><dd>none</dd>" in page
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
        run_stages(plan, keep_captions(finished_pipeline, 0), model, is_update)
    assert read_current(root).version == 1, "the version with captions is still served"
    allowed = plan.model_copy(update={"gate": plan.gate.model_copy(update={"max_removed_fraction": 1})})
    run_stages(allowed, keep_captions(finished_pipeline, 0), model, is_update)
    version = read_current(root).version
    assert list(verify_version(root, version).collections) == ["image"]
    hits = Searcher(plan).search_text(QUERY, 5)
    assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in before]
    assert run_stages(allowed, keep_captions(finished_pipeline, 0), model, is_update).index.stem == f"v{version:08d}"
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
                finished = run_stages(plan, keep_captions(finished_pipeline, 0), model, is_update=True)
                break
            except Killed:
                has_captions = bool(Searcher(plan).search_text(QUERY, 1)[0].captions)
        num_kills += 1
        assert has_captions == (read_current(plan.workspace / "index").version == 1)
    assert num_kills >= 4, "in both stores, after the manifest and after the switch"
    assert list(verify_version(plan.workspace / "index").collections) == ["image"]
    assert len(Store(finished.vectors.captions)) == 0


def test_flow_artifacts_say_what_an_index_without_captions_lacks(copy, finished_pipeline, monkeypatch):
    pytest.importorskip("prefect")
    from flows.reporting import artifacts

    (plan, model), tables, texts = copy, {}, {}
    finished = run_stages(plan, keep_captions(finished_pipeline, 0), model)
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, key, description: tables.update({key: rows}))
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, key, description: texts.update({key: text}))
    artifacts.create_store_tables(finished.vectors.features, finished.workspace)
    artifacts.create_training_artifacts(model, finished.evaluation)
    artifacts.create_publish_artifacts(plan, finished.index, finished.workspace.report)
    assert [row["items"] for row in tables["stores"]] == [36], "a store of captions that do not exist"
    assert "metrics" not in tables, "a table without rows"
    (row,) = tables["index"]
    assert (row["kind"], row["exact search"]) == ("image", True)
    assert row["measured with"] == "18 vectors of the collection itself"
    reasons = {row["check"]: row["problem"] for row in tables["gate"] if row["passed"] == "not checked"}
    assert reasons["caption recall"] == "the version has no captions"
    assert "36 images, published" in texts["lineage"]
    assert texts["gallery"].count("data:image/jpeg") == 1


def test_service_answers_texts_and_refuses_photos_without_captions(copy, finished_pipeline):
    testclient, service = (pytest.importorskip(name) for name in ("fastapi.testclient", "pipeline.service.app"))
    plan, model = copy
    dataset = keep_captions(finished_pipeline, 0)
    run_stages(plan, dataset, model)
    searcher = Searcher(plan)
    app = service.create_app(HotReloader(searcher.index.root, searcher.with_version, poll_seconds=0))
    client = testclient.TestClient(app, base_url="http://localhost")
    hits = client.get("/api/v1/search", params={"q": QUERY, "k": 3}).json()["hits"]
    assert [(hit["id"], hit["captions"]) for hit in hits] == [(hit.id, []) for hit in searcher.search_text(QUERY, 3)]
    overview = client.get("/api/v1/overview").json()
    assert overview["counts"] == {"image": len(dataset.images)}
    assert len({example["image_id"] for example in overview["examples"]}) == 8
    sentences = [example for example in overview["examples"] if example["text"]]
    assert sentences, "an index without captions is asked what many photographs show"
    for example in sentences:
        (answer,) = searcher.search([make_text_query(example["text"])], 1)
        assert answer.hits[0].image_id == example["image_id"]
    answer = client.post("/api/v1/search/photo", content=dataset.images[0].path.read_bytes())
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("The index has no captions, and a photo is compared with captions.")

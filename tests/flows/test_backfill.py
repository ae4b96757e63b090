"""Extraction split by split, the estimates of a dry run, and runs over several plans."""

import json
import logging
import shutil
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext

import pytest

from data.store.store import Store
from pipeline.plans.load import load_plan
from pipeline.runs.estimate import estimate_extraction, estimate_undrawn_demo
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.stage_log import seconds_per_item
from pipeline.stages.extract import select_splits
from pipeline.workspace import Workspace
from tests.helpers.small_plan import extract_features, small_plan

pytestmark = pytest.mark.slow


def list_shard_times(workspace) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("stores/*/*.h5")}


def test_extraction_split_by_split_equals_extraction_of_all_and_its_estimate(finished_pipeline, tmp_path):
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    plan = load_plan(str(small_plan(tmp_path)))
    dataset = PipelineRunner(plan).load_dataset()
    image_ids = lambda *splits: {image.id for image in dataset.images if image.split in splits}  # noqa: E731
    caption_ids = lambda *splits: {c.id for c in dataset.captions if c.image_id in image_ids(*splits)}  # noqa: E731

    new_plan = plan.model_copy(update={"workspace": tmp_path / "new"})
    undrawn_estimates = [
        (e.num_existing, e.num_missing, e.num_shards, e.seconds) for e in estimate_undrawn_demo(new_plan, ["test"])
    ]
    assert not (tmp_path / "new" / "dataset").exists(), "an estimate draws no images"
    assert estimate_undrawn_demo(plan, ["test"]) == []
    before = estimate_extraction(plan, PipelineRunner(plan).load_dataset(["test"]))
    assert (
        [(e.num_existing, e.num_missing, e.num_shards, e.seconds) for e in before]
        == [(0, 6, 1, None), (0, 30, 1, None)]
        == undrawn_estimates
    )
    assert list_shard_times(plan.workspace) == {}, "an estimate extracts nothing"
    for split in ("val", "test"):
        runner = PipelineRunner(plan)
        features = runner.extract(runner.load_dataset([split]))
        extracted_splits = (split,) if split == "val" else ("val", "test")
        assert set(Store(features.regions).ids) == image_ids(*extracted_splits), "items of other splits are kept"
        assert set(Store(features.tokens).ids) == caption_ids(*extracted_splits)
    regions, tokens = estimate_extraction(plan, PipelineRunner(plan).load_dataset())
    assert (regions.num_existing, regions.num_missing, regions.num_shards) == (12, 24, 3)
    assert (tokens.num_existing, tokens.num_missing, tokens.num_shards) == (60, 120, 3)
    assert 0 < regions.seconds < 600
    assert "s" in regions.row()["cost"]
    lines = [json.loads(line) for line in (plan.workspace / "stages.jsonl").read_text().split("\n") if line]
    assert [line["items"] for line in lines if line["stage"] == "region features"] == [6, 6]
    shard_times = list_shard_times(plan.workspace)
    features_of_all = extract_features(plan)
    assert set(Store(features_of_all.regions).ids) == set(Store(finished_pipeline.features.regions).ids)
    assert set(Store(features_of_all.tokens).ids) == set(Store(finished_pipeline.features.tokens).ids)
    assert shard_times.items() <= list_shard_times(plan.workspace).items(), "no shard is written twice"
    assert [e.num_missing for e in estimate_extraction(plan, features_of_all.input_dataset)] == [0, 0]
    head, _, tail = small_plan(tmp_path).read_text().partition("[regions]")
    plan_path = tmp_path / "given.toml"
    plan_path.write_text(f'regions_store = "{features_of_all.regions}"\n{head}{tail[tail.index("[text]") :]}')
    plan = load_plan(str(plan_path))
    estimates = estimate_extraction(plan, PipelineRunner(plan).load_dataset())
    assert [e.store for e in estimates] == [tokens.store], "an existing region store needs no estimate"


def test_seconds_per_item_is_the_mean_over_runs_with_an_item_count(tmp_path):
    runs = [(10.0, 5), (90.0, 15), (2.0, 0), (1000.0, None)]  # the last as older versions wrote it
    common = {"stage": "region features", "output": "regions-0"}
    lines = [common | {"seconds": s} | ({} if items is None else {"items": items}) for s, items in runs]
    lines += [common | {"output": "regions-1", "seconds": 7.0, "items": 1}]
    (tmp_path / "stages.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "reg')
    assert seconds_per_item(Workspace(tmp_path), "region features", "regions-0") == 100 / 20
    assert seconds_per_item(Workspace(tmp_path), "token features", "regions-0") is None


def test_failing_plans_do_not_stop_the_others_and_are_all_named(monkeypatch):
    pytest.importorskip("prefect")
    from flows import flows, runs

    errors = {"lost": BrokenExecutor("a worker died"), "bare": ImportError("no extra"), "gone": FileNotFoundError("no")}
    started = []

    def extract(name, splits, dry_run):
        started.append(name)
        if name in errors:
            raise errors[name]
        return [name]

    monkeypatch.setattr(runs, "run_context", lambda name, *_, **__: nullcontext(name))
    monkeypatch.setattr(runs, "run_extraction", extract)
    monkeypatch.setattr(flows, "get_run_logger", logging.getLogger)
    message = "3 of 5 plans failed, the others are done: lost: a worker died; bare: no extra; gone: no"
    with pytest.raises(ValueError, match=message):
        flows.extract_flickr.fn("lost", more_plans=["bare", "a", "gone", "b"])
    assert started == ["lost", "bare", "a", "gone", "b"]
    assert flows.extract_flickr.fn("a", more_plans=["b"]) == ["a", "b"]
    with pytest.raises(BrokenExecutor):
        flows.extract_flickr.fn("lost")
    with pytest.raises(ValueError, match="sets one workspace for several plans"):
        flows.extract_flickr.fn("a", ["train.seed=1", "workspace=here"], more_plans=["b"])


@pytest.mark.parametrize(
    ("start_at", "runs"),
    [("extract", ["extract", "train", "index"]), ("train", ["train", "index"]), ("index", ["index"])],
)
def test_pipeline_starts_at_the_requested_stage(start_at, runs, monkeypatch):
    pytest.importorskip("prefect")
    from flows import flows

    calls = []
    for flow, name in (("extract_flickr", "extract"), ("train_tern", "train"), ("build_index", "index")):
        monkeypatch.setattr(flows, flow, lambda *arguments, name=name: calls.append((name, *arguments)) or name)
    assert flows.pipeline.fn("demo", ["train.seed=1"], start_at) == "index"
    assert calls == [(name, "demo", ["train.seed=1"]) for name in runs]


def test_unknown_split_is_named(finished_pipeline, tmp_path):
    with pytest.raises(ValueError, match="no split dev; it has"):
        select_splits(finished_pipeline.features.dataset, finished_pipeline.plan, ["test", "dev"])
    with pytest.raises(ValueError, match="demo has no split dev; it has train, val, test"):
        estimate_undrawn_demo(finished_pipeline.plan.model_copy(update={"workspace": tmp_path}), ["test", "dev"])


FLOWS_CODE = """
import sys
from flows import flows
print(flows.extract_flickr(sys.argv[1], splits=["test"], dry_run=True))
print(flows.extract_flickr(sys.argv[1], splits=["test"]))
try:
    flows.extract_flickr("gone.toml", more_plans=[sys.argv[1]])
except ValueError as error:
    print(error)
try:
    flows.build_index(sys.argv[1], model="tern-0123456789ab")
except FileNotFoundError as error:
    print(error)
"""


def test_extract_flow_supports_dry_run_splits_several_plans_and_a_given_model(server, finished_pipeline, tmp_path):
    pytest.importorskip("prefect")
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    path = small_plan(tmp_path)
    process = server.python(FLOWS_CODE, str(path))
    assert process.returncode == 0, process.stderr
    estimate_result, store_folders, failure, model_error = process.stdout.splitlines()
    assert estimate_result == "[]"
    assert len(store_folders.split(",")) == 2
    assert "1 of 2 plans failed, the others are done: gone.toml: Plan 'gone.toml' does not exist" in failure
    assert "has no trained model" in model_error
    failed_run, split_run, estimate_run = server.runs("extract-flickr")[:3]
    rows = json.loads(server.artifacts(estimate_run)["dry-run"]["data"])
    assert [(row["existing"], row["missing"], row["shards"]) for row in rows] == [(0, 6, 1), (0, 30, 1)]
    assert json.loads(server.artifacts(split_run)["stores"]["data"])[0]["items"] == 6
    assert failed_run["state"]["type"] == "FAILED"
    workspace = load_plan(str(path)).workspace
    assert set(Store(workspace / "stores" / finished_pipeline.features.regions.name).ids) == set(
        Store(finished_pipeline.features.regions).ids
    )

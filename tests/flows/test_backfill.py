"""Splits that are extracted one after another, and what a run says it would do before it does it."""

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


def files(workspace) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("stores/*/*.h5")}


def test_one_split_after_another_gives_the_store_of_all_and_the_estimate_says_so_before(finished_pipeline, tmp_path):
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    plan = load_plan(str(small_plan(tmp_path)))
    dataset = PipelineRunner(plan).load_dataset()
    ids = lambda *splits: {image.id for image in dataset.images if image.split in splits}  # noqa: E731
    said = lambda *splits: {c.id for c in dataset.captions if c.image_id in ids(*splits)}  # noqa: E731

    new = plan.model_copy(update={"workspace": tmp_path / "new"})
    told = [(e.num_existing, e.num_missing, e.num_shards, e.seconds) for e in estimate_undrawn_demo(new, ["test"])]
    assert not (tmp_path / "new" / "dataset").exists(), "no picture is drawn by an estimate"
    assert estimate_undrawn_demo(plan, ["test"]) == []
    before = estimate_extraction(plan, PipelineRunner(plan).load_dataset(["test"]))
    assert (
        [(e.num_existing, e.num_missing, e.num_shards, e.seconds) for e in before]
        == [(0, 6, 1, None), (0, 30, 1, None)]
        == told
    )
    assert files(plan.workspace) == {}, "nothing is extracted by an estimate"
    for split in ("val", "test"):
        runner = PipelineRunner(plan)
        features = runner.extract(runner.load_dataset([split]))
        done = (split,) if split == "val" else ("val", "test")
        assert set(Store(features.regions).ids) == ids(*done), "what other splits have is kept"
        assert set(Store(features.tokens).ids) == said(*done)
    regions, tokens = estimate_extraction(plan, PipelineRunner(plan).load_dataset())
    assert (regions.num_existing, regions.num_missing, regions.num_shards) == (12, 24, 3)
    assert (tokens.num_existing, tokens.num_missing, tokens.num_shards) == (60, 120, 3)
    assert 0 < regions.seconds < 600
    assert "s" in regions.row()["cost"]
    lines = [json.loads(line) for line in (plan.workspace / "stages.jsonl").read_text().split("\n") if line]
    assert [line["items"] for line in lines if line["stage"] == "region features"] == [6, 6]
    made = files(plan.workspace)
    whole = extract_features(plan)
    assert set(Store(whole.regions).ids) == set(Store(finished_pipeline.features.regions).ids)
    assert set(Store(whole.tokens).ids) == set(Store(finished_pipeline.features.tokens).ids)
    assert made.items() <= files(plan.workspace).items(), "nothing is made twice"
    assert [e.num_missing for e in estimate_extraction(plan, whole.input_dataset)] == [0, 0]
    before, _, after = small_plan(tmp_path).read_text().partition("[regions]")
    given = tmp_path / "given.toml"
    given.write_text(f'regions_store = "{whole.regions}"\n{before}{after[after.index("[text]") :]}')
    plan = load_plan(str(given))
    estimates = estimate_extraction(plan, PipelineRunner(plan).load_dataset())
    assert [e.store for e in estimates] == [tokens.store], "no regions are to be made"


def test_the_cost_is_that_of_all_runs_that_say_how_many_items_they_made(tmp_path):
    runs = [(10.0, 5), (90.0, 15), (2.0, 0), (1000.0, None)]  # the last as they were written before
    about = {"stage": "region features", "output": "regions-0"}
    lines = [about | {"seconds": s} | ({} if items is None else {"items": items}) for s, items in runs]
    lines += [about | {"output": "regions-1", "seconds": 7.0, "items": 1}]
    (tmp_path / "stages.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "reg')
    assert seconds_per_item(Workspace(tmp_path), "region features", "regions-0") == 100 / 20
    assert seconds_per_item(Workspace(tmp_path), "token features", "regions-0") is None


def test_one_of_several_plans_that_fails_in_any_way_stops_no_other_and_all_are_named(monkeypatch):
    pytest.importorskip("prefect")
    from flows import flows, runs

    errors = {"lost": BrokenExecutor("a worker died"), "bare": ImportError("no extra"), "gone": FileNotFoundError("no")}
    done = []

    def extract(name, splits, dry_run):
        done.append(name)
        if name in errors:
            raise errors[name]
        return [name]

    monkeypatch.setattr(runs, "run_context", lambda name, *_, **__: nullcontext(name))
    monkeypatch.setattr(runs, "run_extraction", extract)
    monkeypatch.setattr(flows, "get_run_logger", logging.getLogger)
    told = "3 of 5 plans failed, the others are done: lost: a worker died; bare: no extra; gone: no"
    with pytest.raises(ValueError, match=told):
        flows.extract_flickr.fn("lost", more_plans=["bare", "a", "gone", "b"])
    assert done == ["lost", "bare", "a", "gone", "b"]
    assert flows.extract_flickr.fn("a", more_plans=["b"]) == ["a", "b"]
    with pytest.raises(BrokenExecutor):
        flows.extract_flickr.fn("lost")
    with pytest.raises(ValueError, match="sets one workspace for several plans"):
        flows.extract_flickr.fn("a", ["train.seed=1", "workspace=here"], more_plans=["b"])


@pytest.mark.parametrize(
    ("start_at", "runs"),
    [("extract", ["extract", "train", "index"]), ("train", ["train", "index"]), ("index", ["index"])],
)
def test_a_pipeline_runs_from_the_stage_that_it_is_told(start_at, runs, monkeypatch):
    pytest.importorskip("prefect")
    from flows import flows

    done = []
    for flow, name in (("extract_flickr", "extract"), ("train_tern", "train"), ("build_index", "index")):
        monkeypatch.setattr(flows, flow, lambda *given, name=name: done.append((name, *given)) or name)
    assert flows.pipeline.fn("demo", ["train.seed=1"], start_at) == "index"
    assert done == [(name, "demo", ["train.seed=1"]) for name in runs]


def test_a_split_that_is_not_there_is_named(finished_pipeline, tmp_path):
    with pytest.raises(ValueError, match="no split dev; it has"):
        select_splits(finished_pipeline.features.dataset, finished_pipeline.plan, ["test", "dev"])
    with pytest.raises(ValueError, match="demo has no split dev; it has train, val, test"):
        estimate_undrawn_demo(finished_pipeline.plan.model_copy(update={"workspace": tmp_path}), ["test", "dev"])


DRY = """
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


def test_the_flow_says_what_it_would_do_takes_splits_and_plans_and_pins_a_model(server, finished_pipeline, tmp_path):
    pytest.importorskip("prefect")
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    path = small_plan(tmp_path)
    ended = server.python(DRY, str(path))
    assert ended.returncode == 0, ended.stderr
    dry, made, failed, pinned = ended.stdout.splitlines()
    assert dry == "[]"
    assert len(made.split(",")) == 2
    assert "1 of 2 plans failed, the others are done: gone.toml: Plan 'gone.toml' does not exist" in failed
    assert "has no trained model" in pinned
    last, split, said = server.runs("extract-flickr")[:3]
    rows = json.loads(server.artifacts(said)["dry-run"]["data"])
    assert [(row["existing"], row["missing"], row["shards"]) for row in rows] == [(0, 6, 1), (0, 30, 1)]
    assert json.loads(server.artifacts(split)["stores"]["data"])[0]["items"] == 6
    assert last["state"]["type"] == "FAILED"
    workspace = load_plan(str(path)).workspace
    assert set(Store(workspace / "stores" / finished_pipeline.features.regions.name).ids) == set(
        Store(finished_pipeline.features.regions).ids
    )

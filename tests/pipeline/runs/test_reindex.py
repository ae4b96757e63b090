"""A changed dataset: only new and changed items are extracted and embedded, and the index gets a delta shard."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from data.store.store import Store
from index.building.build import build_index as build_plain
from index.building.update import IncompatibleUpdateError
from index.collection import Collection, IndexInputs
from index.config import IndexConfig, MaintenanceConfig
from index.metadata.schema import Row
from index.search.index import Index
from index.versions.folder import list_versions, read_version_manifest
from pipeline.cli.app import build_app
from pipeline.origin import read_origin
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.stages.index import IndexSource, find_served_version, publish_index_update
from pipeline.stages.results import Vectors
from pipeline.workers import HASH_IMAGES
from pipeline.workspace import Workspace
from tests.helpers.small_plan import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture
def moved(finished_pipeline, tmp_path):
    """Plan of a copy of the finished run that reads the dataset from its annotation file; and the path of that file."""
    shutil.copytree(finished_pipeline.plan.workspace, tmp_path / "run")
    folder = tmp_path / "run" / "dataset"
    text = SMALL.format(workspace=tmp_path / "run", workers=1)
    start, end = text.index("[demo]"), text.index("[regions]")
    dataset_table = (
        f'[dataset]\nname = "demo"\nannotations = "{folder}/dataset_demo.json"\nimages = "{folder}/images"\n\n'
    )
    (tmp_path / "plan.toml").write_text(text[:start] + dataset_table + text[end:])
    return tmp_path / "plan.toml", folder / "dataset_demo.json"


def make_runner(plan) -> tuple[PipelineRunner, list[tuple[str, int]]]:
    """Make a runner, and a list that receives (stage, items) of each shard that it writes."""
    shards = []

    def make_recording_map(stage):
        def map_and_record(function, jobs):
            for job in jobs:
                if stage == HASH_IMAGES:  # files to hash, of which no shard is written
                    yield function(job)
                    continue
                shards.append((stage, job.num_items))
                yield function(job)

        return map_and_record

    return PipelineRunner(load_plan(str(plan)), make_recording_map), shards


def embed_with_served_model(runner) -> Vectors:
    _, model = find_served_version(runner.workspace)
    return runner.embed(runner.extract(runner.load_dataset(model_is_given=True)), model)


def test_update_embeds_only_the_changed_caption_and_adds_a_delta(moved):
    plan, annotations = moved
    content = json.loads(annotations.read_text())
    gone = content["images"].pop(0)["filename"]
    changed = content["images"][0]
    changed["sentences"][2]["raw"] = "a purple elephant is playing chess in the snow"
    annotations.write_text(json.dumps(content))
    runner, shards = make_runner(plan)
    vectors = embed_with_served_model(runner)
    updated = runner.update_index(vectors)
    assert read_version_manifest(updated.parent.parent).version == 2
    assert shards == [("token features", 1), ("embedding", 1)]
    (caption,) = [c.id for c in vectors.features.dataset.captions if "purple elephant" in c.text]
    with Index.open(runner.workspace.index) as index:
        about = index.manifest.collections
        assert [part.role for part in about["caption"].shards] == ["base", "base", "delta"]
        assert [part.role for part in about["image"].shards] == ["base", "base"]
        assert about["image"].counts.model_dump() == {"live": 35, "deleted": 1}
        assert about["caption"].counts.model_dump() == {"live": 175, "deleted": 6}
        query = Store(vectors.captions).read("features", [caption]).astype("float32")
        assert index.search(query, 1, "caption")[0][0].id == caption
        everything = {hit.id for hit in index.search(query, 36, "image")[0]}
        assert len(everything) == 35
        assert gone not in everything

    runner, shards = make_runner(plan)
    assert runner.update_index(embed_with_served_model(runner)) == updated, "a nightly run without changes"
    assert shards == []
    words = ["--plan", str(plan)]
    shown = CliRunner().invoke(build_app(), ["index", "update", *words])
    assert "nothing to do" in shown.output, shown.output
    shown = CliRunner().invoke(build_app(), ["index", "compact", *words])
    assert shown.output.startswith("index  "), shown.output
    assert read_version_manifest(runner.workspace.index).collections["caption"].deleted is None


def test_unknown_model_and_index_without_plan_are_rejected(moved, tmp_path):
    plan, _ = moved
    result = CliRunner().invoke(build_app(), ["index", "update", "--plan", str(plan), "--model", "tern-0123456789ab"])
    assert "has no trained model 'tern-0123456789ab'; its trained models: tern-" in str(result.exception)
    vectors = np.eye(8, dtype=np.float32)[:4]
    items = Collection(["a", "b", "c", "d"], vectors, [Row("image", name) for name in "abcd"])
    build_plain(IndexConfig(), IndexInputs({"image": items}, {"image": vectors}), tmp_path / "other" / "index")
    with pytest.raises(ValueError, match=r"Version 1 .* was not built from a plan"):
        find_served_version(Workspace(tmp_path / "other"))


def test_update_runs_due_compaction_and_another_model_needs_a_full_build(moved):
    plan, annotations = moved
    content = json.loads(annotations.read_text())
    content["images"].pop(0)
    annotations.write_text(json.dumps(content))
    runner, _ = make_runner(plan)
    vectors = embed_with_served_model(runner)
    root = runner.workspace.index
    with Index.open(root) as index:
        origin = read_origin(index)
    source = IndexSource(vectors, vectors.features.dataset, origin, vectors.features.regions)
    other_source = replace(source, origin=origin.model_copy(update={"model": "tern-0123456789ab"}))
    arguments = (runner.plan.index, runner.workspace)
    with pytest.raises(IncompatibleUpdateError, match="An update cannot change it"):
        publish_index_update(other_source, *arguments, maintenance=MaintenanceConfig())
    assert list_versions(root) == [1]
    messages = []
    maintenance = MaintenanceConfig(max_deleted_fraction=0.01)
    publish_index_update(source, *arguments, maintenance=maintenance, on_message=messages.append)
    assert messages == ["index: compact, because caption: 0.028 of the rows deleted, more than 0.01"]
    assert list_versions(root) == [1, 2, 3], "the update, and the compaction that was due after it"
    assert [part.role for part in read_version_manifest(root).collections["caption"].shards] == ["base", "base"]
    publish_index_update(other_source, *arguments, maintenance=MaintenanceConfig(), allow_full_build=True)
    other = read_version_manifest(root)
    assert other.version == 4
    assert other.collections["image"].vector_space != read_version_manifest(root, 3).collections["image"].vector_space
    publish_index_update(source, *arguments, maintenance=MaintenanceConfig(), version=3)
    assert read_version_manifest(root).version == 3, "without changes against version 3, that version is served again"

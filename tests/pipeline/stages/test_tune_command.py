"""`tern index tune` over a finished run: an index can be built as recommended, and no query is in the sample."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from data.store.store import Store
from index.search.index import Index
from index.tuning.choice import TuningLimits
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.stages.index import IndexSource, publish_full_index
from pipeline.stages.tune import advise_index_settings
from pipeline.workspace import Workspace
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow


def test_recommended_settings_can_be_built_and_reach_the_recall(finished_pipeline, tmp_path):
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))
    command = ["index", "tune", "--plan", plan, "--max-latency-ms", "1000"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert (finished_pipeline.plan.workspace / "tune-image.png").read_bytes().startswith(b"\x89PNG")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["queries", "factory", "nprobe"]
    assert sum(line.lstrip().startswith(">") for line in lines[1:-3]) == 2, (
        "one for text queries, one for image queries"
    )
    without_time = lambda text: re.sub(r"( +\d+\.\d+){3}$", "", text, flags=re.M)  # noqa: E731
    again = CliRunner().invoke(build_app(), command)
    assert without_time(again.stdout) == without_time(result.stdout)
    settings = shlex.split(lines[-1])[4::2]  # build  tern index --set KEY=VALUE --set ...
    source = IndexSource(finished_pipeline.vectors, finished_pipeline.features.dataset)
    publish_full_index(source, load_plan(plan, tuple(settings)).index, Workspace(tmp_path))
    with Index.open(tmp_path / "index") as index:
        about = index.manifest.collections["image"]
    assert about.recall.target_reached
    assert about.recall.target == 0.95


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_no_query_is_in_the_sample(kind, finished_pipeline, monkeypatch):
    read: list[set[str]] = []
    original = Store.read

    def record_ids(self, name, ids):
        read.append(set(ids))
        return original(self, name, ids)

    monkeypatch.setattr(Store, "read", record_ids)
    advise_index_settings(
        kind, TuningLimits(max_latency_s=10.0), finished_pipeline.vectors, finished_pipeline.features.dataset
    )
    *queries, sample = read
    assert len(queries) == 2
    assert all(not ids & sample for ids in queries)
    split = {image.id: image.split for image in finished_pipeline.features.dataset.images}
    assert {split[name.split("#")[0]] for name in sample} == {"train"}
    assert {split[name.split("#")[0]] for ids in queries for name in ids} <= {"val", "test"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "--max-memory-gb", "0"], "No operating point keeps the limit 0 GB"),
        (["tune", "--kind", "video"], "Unknown kind 'video'; --kind must be one of image, caption"),
        (["--set", "index.shards=2", "tune"], "come before 'tune'. Pass them after it"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message, finished_pipeline):
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))
    arguments = ["index", *arguments] + (["--plan", plan] if arguments[0] == "tune" else [])
    result = CliRunner().invoke(build_app(), arguments)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)

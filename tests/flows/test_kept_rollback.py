"""What flows do about a version that a rollback pinned, and the keys of artifacts; no server is needed."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from index.versions import rollback
from pipeline.plans import load_plan
from pipeline.runs import PipelineRunner
from tests.helpers.index_publish import publish
from tests.helpers.small_plan import small_plan

pytest.importorskip("prefect")

from flows import flows, runs
from flows.reporting import artifacts
from flows.tasks import artifact_keys as keys


class Log:
    def __init__(self):
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def runner(tmp_path, monkeypatch) -> PipelineRunner:
    """The runner of a plan with two versions of an index; the first is pinned. Lines of the log are in `runner.log`."""
    runner = PipelineRunner(load_plan(str(small_plan(tmp_path))))
    for seed in (0, 1):
        publish(runner.workspace.index, seed)
    rollback(runner.workspace.index, 1)
    runner.log, runner.artifacts = Log(), []
    monkeypatch.setattr(runs, "get_run_logger", lambda: runner.log)
    monkeypatch.setattr(runs.artifacts, "create_rollback_artifact", runner.artifacts.append)
    monkeypatch.setattr(runs, "run_context", lambda *_, **__: nullcontext(runner))
    for name in ("run_reindex", "run_publish"):
        monkeypatch.setattr(runs, name, lambda *_: "published")
    return runner


@pytest.mark.parametrize(
    ("flow", "parameters", "is_kept"),
    [
        (flows.reindex, {}, True),
        (flows.reindex, {"keep_rollback": False}, False),
        (flows.build_index, {}, False),
        (flows.build_index, {"keep_rollback": True}, True),
    ],
)
def test_flow_keeps_or_ends_a_rollback_and_says_so(runner, flow, parameters, is_kept):
    result = flow.fn("demo", **parameters)
    assert runner.log.lines == runner.artifacts != []
    if is_kept:
        assert (result.name, result.is_completed()) == ("NothingToDo", True)
        assert "version 1 is pinned by a rollback and stays published" in result.message
        assert "keep_rollback=false" in result.message, "the message says how to publish"
    else:
        assert result == "published"
        assert "ends if this run publishes" in runner.log.lines[0]


@pytest.mark.parametrize("flow", [flows.reindex, flows.build_index])
def test_flow_says_nothing_without_a_rollback(runner, flow):
    publish(runner.workspace.index, 2)
    assert flow.fn("demo") == "published"
    assert runner.log.lines == runner.artifacts == []


def test_automation_keeps_a_rollback():
    text = Path("prefect.yaml").read_text()
    assert re.search(r"event\.resource\.model.*\n\s+keep_rollback: true", text), "nobody asked for its run"


def plan_of(folder: Path, name: str, workspace: str = "run"):
    text = (
        f'workspace = "{folder / workspace}"\n[dataset]\nname = "{name}"\nannotations = "a.json"\nimages = "photos"\n'
    )
    path = folder / "plan.toml"
    path.write_text(text)
    return load_plan(str(path))


def test_each_dataset_and_workspace_has_keys_of_its_own(tmp_path, monkeypatch):
    created = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, key, description: created.append(key))
    plans = [
        plan_of(tmp_path, *words) for words in (("coco",), ("Flickr 8k",), ("coco", "other"), ("coco",), ("écran/../",))
    ]
    for plan in plans:
        with keys.artifact_keys_of(plan):
            artifacts.create_table([{"a": 1}], "metrics", "Metrics")
    artifacts.create_table([{"a": 1}], "metrics", "Metrics")
    assert created[0] == created[3], "two runs of a plan share their history"
    assert len(set(created)) == 5
    assert all(re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{6}-metrics", key) for key in created[:-1])
    assert created[0].startswith("coco-")
    assert created[-1] == "metrics"

"""A command that reads never writes, whatever the workspace has: each is run at every stage of completeness."""

import hashlib
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from index.versions import read_current, read_pinned_version, rollback
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.runs import read_finished, read_vectors
from pipeline.runs.runner import PipelineRunner
from tests.helpers.small_plan import small_plan

CONTENTS = {
    "empty": (),
    "drawn": ("dataset",),
    "extracted": ("dataset", "stores", "hashes.json", "stages.jsonl"),
    "trained": ("dataset", "stores", "hashes.json", "stages.jsonl", "models"),
    "evaluated": ("dataset", "stores", "hashes.json", "stages.jsonl", "models", "vectors", "evaluation"),
    "indexed": ("dataset", "stores", "hashes.json", "stages.jsonl", "models", "vectors", "evaluation", "index"),
    "unevaluated": ("dataset", "stores", "stages.jsonl", "models", "vectors", "index"),
    "without stores": ("dataset", "models", "vectors", "index"),
    "without models": ("dataset", "stores", "vectors", "index"),
    "rolled back": ("dataset", "stores", "hashes.json", "stages.jsonl", "models", "vectors", "evaluation", "index"),
    "of two models": ("dataset", "stores", "hashes.json", "stages.jsonl", "models", "vectors", "evaluation"),
}
OF_TWO_MODELS = ("rolled back", "of two models")
COMMANDS = {
    "report": ("report.html",),
    "misses --limit 2": ("misses-test.html",),
    "index tune --max-latency-ms 1000": ("tune-image.png",),
    "lineage": (),
    "lineage --all --mermaid": (),
    "search dogs -k 2": (),
    "search dogs --version 1": (),
    "index info": (),
    "index verify": (),
    "index tags": (),
    "index gc --dry-run": (),
    "evaluate --dry-run": (),
    "index --dry-run": (),
    "index update --dry-run": (),
    "pipeline --dry-run": (),
}
"""The files of the workspace that each command may write."""


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    """Return time of change, size and digest of every file and folder; a deleted temporary file changes its folder."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def two_versions(finished_pipeline, tmp_path_factory) -> Path:
    """The workspace of a folder, which has two models, and a version of each in its index."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(finished_pipeline.plan.workspace, root / "run")
    publish_another_version(load_plan(str(small_plan(root))))
    return root / "run"


@pytest.fixture
def workspace(request, finished_pipeline, tmp_path) -> Path:
    """A workspace with the outputs of some stages."""
    has_two_models = request.param in OF_TWO_MODELS
    finished = request.getfixturevalue("two_versions") if has_two_models else finished_pipeline.plan.workspace
    copy = tmp_path / "run"
    copy.mkdir()
    for name in CONTENTS[request.param]:
        source = finished / name
        if not source.exists():  # the cache of hashes lacks files that were written just now
            continue
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy2(source, copy / name)
    if request.param == "rolled back":
        rollback(copy / "index", 1)
    return copy


def publish_another_version(plan) -> None:
    """Publish version 2: another model of the same features, trained for one epoch, so that it finds less."""
    train = plan.train.model_copy(update={"epochs": 1})
    gate = plan.gate.model_copy(update={"max_success_drop": 1.0})
    PipelineRunner(plan.model_copy(update={"train": train, "gate": gate})).run_all()


@pytest.mark.parametrize("workspace", [name for name in CONTENTS if name not in OF_TWO_MODELS], indirect=True)
def test_reading_commands_write_nothing_but_their_output(workspace):
    for command in COMMANDS:
        check_command(workspace, command)


@pytest.mark.parametrize("workspace", ["rolled back"], indirect=True)
def test_reading_commands_keep_a_rollback(workspace):
    for command in COMMANDS:
        result = check_command(workspace, command)
        assert result.exit_code == 0, (command, result.exception)
    assert read_pinned_version(workspace / "index") == 1
    assert read_current(workspace / "index").version == 1


def check_command(workspace: Path, command: str):
    """Run a command: it succeeds or names the command that makes what is missing, and writes only its output."""
    plan, before = str(small_plan(workspace.parent)), snapshot(workspace)
    result = CliRunner().invoke(build_app(), [*command.split(), "--plan", plan])
    after = snapshot(workspace)
    written = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert written <= set(COMMANDS[command]), f"{command} has written other files"
    if result.exit_code:
        assert isinstance(result.exception, FileNotFoundError), result.exception
        assert "`tern " in str(result.exception), "the message has the command that makes what is missing"
        assert not written
    return result


@pytest.mark.parametrize("workspace", ["rolled back"], indirect=True)
def test_report_shows_the_version_and_the_model_that_are_served(workspace, finished_pipeline):
    finished = read_finished(load_plan(str(small_plan(workspace.parent))))
    assert finished.index == workspace / "index" / "versions" / "v00000001.json"
    assert finished.model.name == finished_pipeline.model.name
    assert finished.evaluation == finished_pipeline.evaluation
    assert {entry.stage: entry.output for entry in finished.stages} == {
        entry.stage: entry.output for entry in finished_pipeline.stages
    }


@pytest.mark.parametrize("workspace", ["unevaluated"], indirect=True)
def test_metrics_that_no_run_has_written_are_computed_for_the_report(workspace, finished_pipeline):
    plan = load_plan(str(small_plan(workspace.parent)))
    assert read_finished(plan).evaluation == finished_pipeline.evaluation
    with_ndcg = plan.model_copy(update={"evaluate": plan.evaluate.model_copy(update={"ndcg": True})})
    assert read_finished(with_ndcg).evaluation.splits["test"].metrics.t2i.ndcg.keys() == {"rougeL"}
    assert not (workspace / "evaluation").exists()


@pytest.mark.parametrize("workspace", ["evaluated"], indirect=True)
def test_items_without_a_vector_are_left_out_and_counted(workspace):
    plan, messages = load_plan(str(small_plan(workspace.parent))), []
    annotations = workspace / "dataset" / "dataset_demo.json"
    complete = read_vectors(plan)
    text = annotations.read_text().replace("scene-00035.jpg", "scene-99999.jpg")  # a new name, so a new image
    annotations.write_text(text)
    shutil.copy(workspace / "dataset/images/scene-00035.jpg", workspace / "dataset/images/scene-99999.jpg")
    vectors = read_vectors(plan, on_message=messages.append)
    assert len(vectors.features.dataset.images) == len(complete.features.dataset.images) - 1
    assert any("1 images and 5 captions" in message for message in messages), messages


@pytest.mark.parametrize("workspace", ["of two models"], indirect=True)
def test_model_must_be_named_if_several_have_vectors_and_none_is_published(workspace, finished_pipeline):
    plan, name = load_plan(str(small_plan(workspace.parent))), finished_pipeline.model.name
    with pytest.raises(ValueError, match=rf"2 models have vectors: .*{name}.*--model"):
        read_vectors(plan)
    assert read_vectors(plan, name).model.name == name
    with pytest.raises(FileNotFoundError, match="no trained model 'tern-0'"):
        read_vectors(plan, "tern-0")


@pytest.mark.parametrize("workspace", ["drawn"], indirect=True)
def test_missing_text_model_is_reported_before_regions_are_extracted(workspace):
    plan = load_plan(str(small_plan(workspace.parent)), ("text.model=someone/no-such-model",))
    runner = PipelineRunner(plan)
    dataset = runner.load_dataset()
    with pytest.raises(FileNotFoundError, match='"minilm"'):
        runner.extract(dataset)
    assert not (workspace / "stores").exists()

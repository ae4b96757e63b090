"""Work of the flows. A flow imports this module when it starts, because the stages import torch and faiss.

`flows.flows` alone is enough to deploy, to show a form, to check parameters and to report a failure.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import State
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from data.datasets import Dataset
from data.io import describe_error, is_out_of_memory
from data.settings import read_settings
from flows.parameters import get_dataset_name, load_plan_with
from flows.reporting import artifacts
from flows.reporting.logs import forward_logs_to_run
from flows.server.schedule import describe_rollback, make_nothing_to_do_state
from flows.tasks.artifact_keys import artifact_keys_of
from flows.tasks.retries import retry, wait_for_lock
from flows.tasks.shards import make_epoch_callback, make_task_map_factory
from index.versions import RejectedError, manifest_path, read_pinned_version
from pipeline.pages import write_report
from pipeline.runs import (
    Estimate,
    Finished,
    PipelineRunner,
    estimate_extraction,
    estimate_undrawn_demo,
    train_with_torchrun,
)
from pipeline.stages import Features, Vectors, find_served_version, read_plan_dataset, select_splits
from pipeline.workspace import Workspace

MODEL_CREATED = "tern.model.created"  # event of a new model; it may start `build-index` (see prefect.yaml)


@contextmanager
def run_context(plan: str, overrides: Sequence[str], **typed_parameters: Any) -> Iterator[PipelineRunner]:
    """Provide the runner of a plan.

    Its jobs are Prefect tasks, and its log lines go to the log of the flow run.

    Args:
        plan: Plan file, or the name of a shipped plan.
        overrides: Settings of the plan to change, each `KEY=VALUE`.
        typed_parameters: Settings as parameters of the flow; `__` in a name stands for a dot.
    """
    loaded = load_plan_with(plan, overrides, **typed_parameters)
    dataset = get_dataset_name(loaded)
    with forward_logs_to_run(), artifact_keys_of(loaded), _describe_exhausted_memory():
        yield PipelineRunner(
            loaded,
            make_task_map_factory(loaded.workers, dataset, 60 * read_settings().shard_timeout_minutes),
            make_epoch_callback(dataset),
        )


@contextmanager
def _describe_exhausted_memory() -> Iterator[None]:
    """Replace the message of a library, such as torch's, by the cause and the next step, for the state of the run."""
    try:
        yield
    except Exception as error:  # libraries raise RuntimeError or a type of their own
        if not is_out_of_memory(error):
            raise
        raise MemoryError(describe_error(error)) from error


def run_extraction(runner: PipelineRunner, splits: list[str] | None, dry_run: bool) -> list[str]:
    """Extract both feature stores, or estimate the work.

    Args:
        runner: Runner of the plan.
        splits: Names of the splits to extract; None: all.
        dry_run: Report an estimate instead of extracting.

    Returns:
        The folders of the stores; empty with `dry_run`, whose estimate is in an artifact and in the log.
    """
    if dry_run and (estimates := estimate_undrawn_demo(runner.plan, splits)):
        return _report_estimates(estimates, "demo")
    if dry_run:
        dataset = read_plan_dataset(runner.plan)
        selected = select_splits(dataset, runner.plan, splits) if splits else dataset
        return _report_estimates(estimate_extraction(runner.plan, selected), dataset.name)
    dataset = _load_dataset(runner, splits or ())
    features = _extract(runner, dataset)
    return [str(features.regions), str(features.tokens)]


def _report_estimates(estimates: list[Estimate], dataset: str) -> list[str]:
    rows = [estimate.row() for estimate in estimates]
    artifacts.create_table(rows, "dry-run", f"What extraction of {dataset} would do")
    for row in rows:
        get_run_logger().info("dry run: %s", ", ".join(f"{key} {value}" for key, value in row.items()))
    return []


def run_training(runner: PipelineRunner, plan: str, overrides: tuple[str, ...], processes: int | None) -> str:
    """Train and evaluate a model; emit an event if the model is new.

    Args:
        runner: Runner of the plan.
        plan: Name or path of the plan, for the event and the training processes.
        overrides: Settings of the plan to change, each KEY=VALUE, such as train.seed=1.
        processes: Number of training processes; None or 1: this process trains.

    Returns:
        The folder of the model.
    """
    models_before = runner.workspace.list_models()
    features = _extract(runner, _load_trainable_dataset(runner))
    if processes and processes > 1:
        callbacks = make_epoch_callback(features.dataset.name), get_run_logger().info
        retry("training", lambda: train_with_torchrun(processes, plan, overrides, *callbacks))
    model = _train(runner, features)
    # The event is sent before the evaluation: if the run fails there, the next run finds the model and sends no event.
    # A run inside another run belongs to the flow `pipeline`, which builds the index itself.
    if model.name not in models_before and flow_run.parent_flow_run_id is None:
        emit_event(
            MODEL_CREATED,
            {"prefect.resource.id": f"tern.model.{model.name}", "plan": plan, "model": model.name},
            payload={"plan": plan, "model": model.name, "overrides": list(overrides)},
        )
    vectors = _embed(runner, features, model)
    evaluation = retry("evaluation", lambda: runner.evaluate(vectors))
    artifacts.create_training_artifacts(model, evaluation)
    return str(model)


def find_kept_rollback(runner: PipelineRunner, keep: bool) -> State | None:
    """Decide what a run that publishes does about a rollback, and say it in the log and in an artifact.

    Args:
        runner: The runner of the plan.
        keep: Whether the version that a rollback pinned stays published.

    Returns:
        The state NothingToDo if the pinned version stays; None if the run may publish.
    """
    if (pinned := read_pinned_version(runner.workspace.index)) is None:
        return None
    text = describe_rollback(pinned, keep)
    get_run_logger().warning(text)
    artifacts.create_rollback_artifact(text)
    return make_nothing_to_do_state(manifest_path(runner.workspace.index, pinned), text) if keep else None


def run_publish(runner: PipelineRunner, model: str | None = None) -> str:
    """Build an index version, publish it, and write the report. Returns the manifest.

    Args:
        runner: The runner of the plan.
        model: Name of a trained model of the workspace; None trains the model of the plan if it does not exist.
    """
    model_folder = runner.workspace.model(model) if model else None
    vectors = _make_vectors(runner, model_folder)
    published = _publish(runner, vectors, lambda: runner.publish_index(vectors))
    _write_report(runner, vectors, published)
    return str(published)


def run_reindex(runner: PipelineRunner, model: str | None = None, version: int | None = None) -> str | State:
    """Publish the changes of the dataset as a new index version.

    Returns the manifest, or the state NothingToDo.

    Args:
        runner: The runner of the plan.
        model: Name of a trained model of the workspace; None: that of the package of the plan, or that of the index.
        version: Version to update; the published one if None.
    """
    before, _ = find_served_version(runner.workspace)
    _, served_model = find_served_version(runner.workspace, version)
    # The package of the plan decides, also after it was replaced by another one.
    model_folder = runner.workspace.model(model) if model else None if runner.plan.model else served_model
    vectors = _make_vectors(runner, model_folder)
    published = _publish(runner, vectors, lambda: runner.update_index(vectors, version, allow_full_build=True))
    if published == before:
        text = f"{before.stem} holds all that {vectors.features.dataset.name} has"
        return make_nothing_to_do_state(before, text)
    _write_report(runner, vectors, published)
    return str(published)


def _load_dataset(runner: PipelineRunner, splits: Sequence[str] = (), model_is_given: bool = False) -> Dataset:
    return retry("reading of the dataset", lambda: runner.load_dataset(splits, model_is_given=model_is_given))


def _load_trainable_dataset(runner: PipelineRunner) -> Dataset:
    return retry("reading of the dataset", runner.load_trainable_dataset)


def _extract(runner: PipelineRunner, dataset: Dataset) -> Features:
    """Extract both stores and create their tables. The shards are tasks with retries of their own."""
    features = wait_for_lock("extraction", lambda: runner.extract(dataset))
    # The tables come before the stages that may fail because records are invalid.
    retry("the tables of the stores", lambda: artifacts.create_store_tables(features, runner.workspace))
    return features


def _train(runner: PipelineRunner, features: Features) -> Path:
    return retry("training", lambda: runner.train(features))


def _embed(runner: PipelineRunner, features: Features, model: Path) -> Vectors:
    vectors = wait_for_lock("embedding", lambda: runner.embed(features, model))
    if vectors.features.invalid_records != features.invalid_records:
        retry("the tables of the stores", lambda: artifacts.create_store_tables(vectors.features, runner.workspace))
    return vectors


def _make_vectors(runner: PipelineRunner, model: Path | None) -> Vectors:
    """Run all stages before the index. Without a model, train the model of the plan."""
    dataset = _load_trainable_dataset(runner) if model is None else _load_dataset(runner, model_is_given=True)
    features = _extract(runner, dataset)
    return _embed(runner, features, model or _train(runner, features))


def _publish(runner: PipelineRunner, vectors: Vectors, publish: Callable[[], Path]) -> Path:
    """Run the index stage.

    A rejected candidate fails the run, with a report; the served version stays served.
    """
    try:
        published = retry("publishing", publish)
    except RejectedError as error:  # no other error, such as a lock that is held by another process
        artifacts.create_rejection_artifacts(error, _describe_served_version(runner.workspace))
        raise
    get_run_logger().info("index %s over %s and %s", published.stem, vectors.images.name, vectors.captions.name)
    return published


def _describe_served_version(workspace: Workspace) -> str:
    try:
        return find_served_version(workspace)[0].stem
    except (FileNotFoundError, ValueError) as error:
        return f"nothing: {error}"


def _write_report(runner: PipelineRunner, vectors: Vectors, published: Path) -> None:
    evaluation = runner.evaluate(vectors)
    finished = Finished(runner.plan, vectors, evaluation, published, runner.list_finished_stages())
    artifacts.create_publish_artifacts(runner.plan, published, write_report(finished))

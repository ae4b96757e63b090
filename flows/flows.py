"""The five flows. A flow imports its work (`flows.runs`) when it starts; the stages know nothing of Prefect."""

from datetime import UTC, datetime
from typing import Any

from prefect import State, flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from data.settings import read_settings
from flows.parameters import (
    Epochs,
    ModelName,
    MorePlans,
    PlanName,
    Processes,
    Recall,
    Seed,
    Settings,
    Shards,
    ShardSize,
    Splits,
    StartAt,
    Version,
    Workers,
    dataset_name,
    merge_settings,
)
from flows.reporting.hooks import HOOKS
from flows.tasks.task_runners import make_task_runner

RUN_TIMEOUT_SECONDS = 3600 * read_settings().run_timeout_hours


def _make_run_name() -> str:
    """Make the name of a run, such as `extract-flickr flickr30k 2026-11-25 03:00:00`.

    The time makes it unique.
    """
    parameters = flow_run.parameters
    dataset = dataset_name(parameters.get("plan", ""), parameters.get("overrides"))
    return f"{flow_run.flow_name} {dataset} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


# A run is not retried: its tasks have retries. Other errors, such as an invalid plan, would occur again.
# Prefect always stores the error of a failed run in a file; the serializer makes it JSON instead of a pickle.
FLOW_OPTIONS: dict[str, Any] = {
    "flow_run_name": _make_run_name,
    "task_runner": make_task_runner(),
    "timeout_seconds": RUN_TIMEOUT_SECONDS,
    **HOOKS,
}


FLOW_OPTIONS |= {"persist_result": False, "result_serializer": "json"}


@flow(name="extract-flickr", **FLOW_OPTIONS)
def extract_flickr(
    plan: PlanName = "flickr30k",
    overrides: Settings = (),
    workers: Workers = None,
    images_per_shard: ShardSize = None,
    splits: Splits = None,
    more_plans: MorePlans = None,
    dry_run: bool = False,
) -> list[str]:
    """Extract region and token features of new and changed items into the stores.

    Args:
        plan: Path of a plan file (.toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, such as train.seed=1.
        workers: Number of processes that extract; that of the plan if empty.
        images_per_shard: Images per shard; a crash loses at most one shard per worker. That of the plan if empty.
        splits: Splits to extract, such as train; all if empty. Finished items of other splits are kept.
        more_plans: Plans of more datasets, extracted after the first; a plan that fails does not stop the others. Each
            keeps its own workspace: `overrides` may not set one.
        dry_run: Report the missing items and the estimated time, and extract nothing.
    """
    if more_plans and any(setting.partition("=")[0].strip() == "workspace" for setting in overrides):
        raise ValueError(
            "`overrides` sets one workspace for several plans. Set the workspace in each plan, or run them one by one."
        )
    from flows import runs

    folders, failed = [], {}
    for name in (plan, *(more_plans or ())):
        try:
            with runs.run_context(name, overrides, workers=workers, images_per_shard=images_per_shard) as runner:
                folders += runs.run_extraction(runner, splits, dry_run)
        except Exception as error:  # any error, such as an invalid plan, a lost worker, or a missing extra
            if not more_plans:
                raise
            failed[name] = error
            get_run_logger().exception("%s failed", name)
    if failed:
        reasons = "; ".join(f"{name}: {str(error) or type(error).__name__}" for name, error in failed.items())
        raise ValueError(f"{len(failed)} of {1 + len(more_plans or ())} plans failed, the others are done: {reasons}")
    return folders


@flow(name="train-tern", **FLOW_OPTIONS)
def train_tern(
    plan: PlanName = "flickr30k",
    overrides: Settings = (),
    epochs: Epochs = None,
    seed: Seed = None,
    processes: Processes = None,
) -> str:
    """Train the model of a plan, and evaluate it on the held-out splits.

    Args:
        plan: Path of a plan file (.toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, such as train.seed=1.
        epochs: Number of passes over the training split; that of the plan if empty.
        seed: Random seed of the weights and the order of the batches; that of the plan if empty.
        processes: Number of torchrun processes that share each batch, on the machine of the worker: one per GPU. One
            process without torchrun if empty.
    """
    from flows import runs

    typed = {"train__epochs": epochs, "train__seed": seed}
    with runs.run_context(plan, overrides, **typed) as runner:
        return runs.run_training(runner, plan, merge_settings(overrides, **typed), processes)


@flow(name="build-index", **FLOW_OPTIONS)
def build_index(
    plan: PlanName = "flickr30k",
    overrides: Settings = (),
    shards: Shards = None,
    target_recall: Recall = None,
    model: ModelName = None,
    keep_rollback: bool = False,
) -> str | State:
    """Build an index version, publish it if it passes the gate, and write the report.

    Args:
        plan: Path of a plan file (.toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, such as index.shards=8.
        shards: Number of shards per collection; that of the plan if empty.
        target_recall: Recall@10 against exact search that sets nprobe, 0 to 1; that of the plan if empty.
        model: Name of a trained model of the workspace, such as tern-0123456789ab; that of the plan if empty.
        keep_rollback: Publish nothing while a rollback pins the published version.
    """
    from flows import runs

    typed = {"index__shards": shards, "index__target_recall": target_recall}
    with runs.run_context(plan, overrides, **typed) as runner:
        return runs.find_kept_rollback(runner, keep_rollback) or runs.run_publish(runner, model)


@flow(name="reindex", **FLOW_OPTIONS)
def reindex(
    plan: PlanName = "flickr30k",
    overrides: Settings = (),
    model: ModelName = None,
    version: Version = None,
    keep_rollback: bool = True,
) -> str | State:
    """Update the index with the changes of the dataset, with the model that the index was built with.

    The update is a delta if possible. Another model, or other settings of the index, need a full build. Nothing is done
    while a rollback pins the published version.

    Args:
        plan: Path of a plan file (.toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, such as workers=8.
        model: Name of a trained model of the workspace; that of the index if empty.
        version: Number of the version to update, such as 3; the published version if empty.
        keep_rollback: Do nothing while a rollback pins the published version; false ends the rollback.
    """
    from flows import runs

    with runs.run_context(plan, overrides) as runner:
        return runs.find_kept_rollback(runner, keep_rollback) or runs.run_reindex(runner, model, version)


@flow(name="pipeline", **FLOW_OPTIONS)
def pipeline(plan: PlanName = "flickr30k", overrides: Settings = (), start_at: StartAt = "extract") -> str | State:
    """Run extraction, training and index, one after another.

    Args:
        plan: Path of a plan file (.toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, such as train.epochs=40.
        start_at: First stage that runs as a flow run of its own. Earlier stages run only if their output is missing.
    """
    if start_at == "extract":
        extract_flickr(plan, overrides)
    if start_at != "index":
        train_tern(plan, overrides)
    return build_index(plan, overrides)

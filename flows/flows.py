"""The five flows. What they do is imported when one runs (`flows.runs`); the stages know nothing of Prefect."""

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


def _named() -> str:
    """`extract-flickr flickr30k 2026-11-25 03:00:00`: with the date, since a name must find one run."""
    given = flow_run.parameters
    dataset = dataset_name(given.get("plan", ""), given.get("overrides"))
    return f"{flow_run.flow_name} {dataset} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


# No retries of a run: its tasks have theirs, and what fails a run (a bad plan, a failed gate) fails it again. Prefect
# keeps the error of a failed run in a file whatever it is told: as JSON rather than a pickle.
FLOW_OPTIONS: dict[str, Any] = {
    "flow_run_name": _named,
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
    """Region and token features of what is new or changed, into the stores.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.seed=1.
        workers: Processes that extract; the plan's if empty.
        images_per_shard: Images a shard, which is what a crash repeats; the plan's if empty.
        splits: Splits to extract, for instance train; all if empty. What other splits have stays.
        more_plans: Plans of more datasets, extracted after the first; one that fails does not stop the others. They
            keep their own workspaces: `overrides` may not set one.
        dry_run: Say what would be done and what it would cost, and do nothing.
    """
    if more_plans and any(setting.partition("=")[0].strip() == "workspace" for setting in overrides):
        raise ValueError(
            "`overrides` sets one workspace for several plans: set it in each plan, or run them one by one."
        )
    from flows import runs

    folders, failed = [], {}
    for name in (plan, *(more_plans or ())):
        try:
            with runs.run_context(name, overrides, workers=workers, images_per_shard=images_per_shard) as runner:
                folders += runs.run_extraction(runner, splits, dry_run)
        except Exception as error:  # of whatever kind: a bad plan, a lost worker, an extra that is missing
            if not more_plans:
                raise
            failed[name] = error
            get_run_logger().exception("%s failed", name)
    if failed:
        told = "; ".join(f"{name}: {str(error) or type(error).__name__}" for name, error in failed.items())
        raise ValueError(f"{len(failed)} of {1 + len(more_plans or ())} plans failed, the others are done: {told}")
    return folders


@flow(name="train-tern", **FLOW_OPTIONS)
def train_tern(
    plan: PlanName = "flickr30k",
    overrides: Settings = (),
    epochs: Epochs = None,
    seed: Seed = None,
    processes: Processes = None,
) -> str:
    """Train TERN on the stores, and evaluate it on the held-out splits.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.seed=1.
        epochs: Passes over the training split; the plan's if empty.
        seed: Of the weights and the order of the batches; the plan's if empty.
        processes: That share each batch, by torchrun on the worker's machine: one a GPU. One in all if empty.
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
) -> str:
    """Build a version of the index, publish it if it passes its gate, and write the report.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance index.shards=8.
        shards: Files a collection; the plan's if empty.
        target_recall: Share of the exact best 10 to be found, 0 to 1; the plan's if empty.
        model: A trained model of the workspace to build with, for instance tern-0123456789ab; the plan's if empty.
    """
    from flows import runs

    typed = {"index__shards": shards, "index__target_recall": target_recall}
    with runs.run_context(plan, overrides, **typed) as runner:
        return runs.run_publish(runner, model)


@flow(name="reindex", **FLOW_OPTIONS)
def reindex(
    plan: PlanName = "flickr30k", overrides: Settings = (), model: ModelName = None, version: Version = None
) -> str | State:
    """What is new or changed in the dataset goes into the index, with the model that the index was built with.

    It goes in as a delta where it may: another model or other settings of the index make a whole version.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance workers=8.
        model: A trained model of the workspace to embed with; the one of the index if empty.
        version: The version of the index to go on from, for instance 3; the one that is served if empty.
    """
    from flows import runs

    with runs.run_context(plan, overrides) as runner:
        return runs.run_reindex(runner, model, version)


@flow(name="pipeline", **FLOW_OPTIONS)
def pipeline(plan: PlanName = "flickr30k", overrides: Settings = (), start_at: StartAt = "extract") -> str:
    """Extraction, training and index, one after another.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.epochs=40.
        start_at: The first stage to run as a run of its own; one before it is only made if it is missing.
    """
    if start_at == "extract":
        extract_flickr(plan, overrides)
    if start_at != "index":
        train_tern(plan, overrides)
    return build_index(plan, overrides)

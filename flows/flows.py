"""The five flows. Remove the decorators and the code still works: the stages know nothing of Prefect."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts
from flows.hooks import HOOKS
from flows.logs import in_run_log
from flows.parameters import (
    Epochs,
    PlanName,
    Recall,
    Seed,
    Settings,
    Shards,
    ShardSize,
    Workers,
    dataset_name,
    read_plan,
)
from flows.schedule import nothing_to_do
from flows.tasks import as_tasks, on_epoch
from index import Index
from pipeline.chain import Chain
from pipeline.report import write_report

RUN_SECONDS = 3600 * float(os.environ.get("TERN_RUN_HOURS", "72"))
SHARD_SECONDS = 60 * float(os.environ.get("TERN_SHARD_MINUTES", "60"))
CHECKPOINT = "tern.checkpoint.made"  # the event that may make a new index (prefect.yaml)


def _named() -> str:
    """`extract-flickr flickr30k 2026-11-25 03:00:00`: with the date, since a name must find one run."""
    given = flow_run.parameters
    dataset = dataset_name(given.get("plan", ""), given.get("overrides"))
    return f"{flow_run.flow_name} {dataset} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


# The threads only wait: `workers` of the plan says how many processes work. No retries of a run: its tasks have theirs,
# and what fails a run (a bad plan, a failed gate) fails it again.
THREADS = ThreadPoolTaskRunner(max_workers=256)
RUN: dict[str, Any] = {"flow_run_name": _named, "task_runner": THREADS, "timeout_seconds": RUN_SECONDS, **HOOKS}


@contextmanager
def _carried_out(plan: str, overrides: list[str] | None, pinned: bool = False, **typed: Any) -> Iterator[Chain]:
    """The chain of a plan, its shards tasks, its lines in the run's log. `pinned`: with the model that is served."""
    loaded = read_plan(plan, overrides, **typed)
    dataset = loaded.dataset.name if loaded.dataset else "demo"
    with in_run_log():
        model = _served(loaded.workspace)[1] if pinned else None
        yield Chain(loaded, as_tasks(loaded.workers, dataset, SHARD_SECONDS), on_epoch(dataset), model)


def _served(workspace: Path) -> tuple[Path, Path]:
    with Index.open(workspace / "index") as served:
        return served.folder, workspace / "models" / served.manifest["provenance"]["model"]


@flow(name="extract-flickr", **RUN)
def extract_flickr(
    plan: PlanName = "flickr30k",
    overrides: Settings = None,
    workers: Workers = None,
    images_per_shard: ShardSize = None,
) -> list[str]:
    """Region and token features of what is new or changed, into the stores.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.seed=1.
        workers: Processes that extract; the plan's if empty.
        images_per_shard: Images a shard, which is what a crash repeats; the plan's if empty.
    """
    with _carried_out(plan, overrides, workers=workers, images_per_shard=images_per_shard) as chain:
        artifacts.stores(chain)
        return [str(chain.regions), str(chain.tokens)]


@flow(name="train-tern", **RUN)
def train_tern(
    plan: PlanName = "flickr30k", overrides: Settings = None, epochs: Epochs = None, seed: Seed = None
) -> str:
    """Train TERN on the stores, and evaluate it on the held-out splits.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.seed=1.
        epochs: Passes over the training split; the plan's if empty.
        seed: Of the weights and the order of the batches; the plan's if empty.
    """
    with _carried_out(plan, overrides, train__epochs=epochs, train__seed=seed) as chain:
        artifacts.training(chain)
        model = {"prefect.resource.id": f"tern.model.{chain.model.name}", "plan": plan}
        emit_event(CHECKPOINT, model, payload={"plan": plan, "overrides": overrides or []})
        return str(chain.model)


@flow(name="build-index", **RUN)
def build_index(
    plan: PlanName = "flickr30k", overrides: Settings = None, shards: Shards = None, target_recall: Recall = None
) -> str:
    """Build a version of the index, publish it if it passes its gate, and write the report.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance index.shards=8.
        shards: Files a collection; the plan's if empty.
        target_recall: Share of the exact best 10 to be found, 0 to 1; the plan's if empty.
    """
    with _carried_out(plan, overrides, index__shards=shards, index__target_recall=target_recall) as chain:
        _publish(chain)
        artifacts.published(chain, write_report(chain))
        return str(chain.index)


@flow(name="reindex", **RUN)
def reindex(plan: PlanName = "flickr30k", overrides: Settings = None) -> str | State:
    """What is new or changed in the data set goes into the index, with the model that the index was built with.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance workers=8.
    """
    with _carried_out(plan, overrides, pinned=True) as chain:
        before = _served(chain.plan.workspace)[0]
        _publish(chain)
        if chain.index == before:
            return nothing_to_do(before, chain.dataset.name)
        artifacts.published(chain, write_report(chain))
        return str(chain.index)


@flow(name="pipeline", **RUN)
def pipeline(plan: PlanName = "flickr30k", overrides: Settings = None) -> str:
    """Extraction, training and index, one after another.

    Args:
        plan: A plan file (a path ending in .toml), or the name of a shipped plan.
        overrides: Settings of the plan to change, each KEY=VALUE, for instance train.epochs=40.
    """
    extract_flickr(plan, overrides)
    train_tern(plan, overrides)
    return build_index(plan, overrides)


def _publish(chain: Chain) -> None:
    """Run the index stage. A candidate that is refused fails the run, its report attached; what was served still is."""
    vectors = chain.vectors  # the stages before the index have errors of their own
    try:
        get_run_logger().info("index %s over %s and %s", chain.index.name, vectors.images.name, vectors.captions.name)
    except ValueError as error:
        artifacts.refused(error, _still_served(chain.plan.workspace))
        raise


def _still_served(workspace: Path) -> str:
    try:
        return _served(workspace)[0].name
    except (FileNotFoundError, ValueError) as error:
        return f"nothing: {error}"

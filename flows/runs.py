"""What runs do. A run imports this when it begins, with all that the stages need, which takes seconds.

`flows.flows` alone is enough to deploy, to show a form, to check parameters and to tell of a failure.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect import State
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.parameters import load_plan_with
from flows.reporting import artifacts
from flows.reporting.logs import forward_logs_to_run
from flows.server.schedule import make_nothing_to_do_state
from flows.tasks.retries import retry, wait_for_lock
from flows.tasks.shards import make_epoch_callback, make_task_map_factory
from index.versions import RejectedError
from pipeline.pages import write_report
from pipeline.runs import (
    Estimate,
    PipelineRunner,
    estimate_extraction,
    estimate_undrawn_demo,
    select_splits,
    train_with_torchrun,
)
from pipeline.stages import VectorStores, find_served_version, publish_full_index, publish_index_update
from pipeline.workspace import find_model, list_models

SHARD_TIMEOUT_SECONDS = 60 * float(os.environ.get("TERN_SHARD_TIMEOUT_MINUTES", "60"))
MODEL_CREATED = "tern.model.created"  # the event of a new model that may make a new index (prefect.yaml)


@contextmanager
def run_context(
    plan: str,
    overrides: Sequence[str],
    model: str | None = None,
    update: bool = False,
    version: int | None = None,
    **typed_parameters: Any,
) -> Iterator[PipelineRunner]:
    """The chain of a plan, its shards tasks, its lines in the run's log.

    `model` pins one of the workspace's models, by name. `update` has the last stage bring the published index, or
    `version`, to what there is, with its model unless one is given.
    """
    loaded = load_plan_with(plan, overrides, **typed_parameters)
    dataset = loaded.dataset.name if loaded.dataset else "demo"
    with forward_logs_to_run():
        pinned = find_model(loaded.workspace, model) if model else None
        indexed = publish_full_index
        if update:
            pinned = pinned or find_served_version(loaded.workspace, version)[1]
            indexed = partial(
                publish_index_update, maintenance=loaded.maintenance, version=version, allow_full_build=True
            )
        yield PipelineRunner(
            loaded,
            make_task_map_factory(loaded.workers, dataset, SHARD_TIMEOUT_SECONDS),
            make_epoch_callback(dataset),
            pinned,
            indexed,
        )


def run_extraction(chain: PipelineRunner, splits: list[str] | None, dry_run: bool) -> list[str]:
    """Both stores of the chain, or a table of what they lack; returns the folders that were filled."""
    if dry_run and (found := estimate_undrawn_demo(chain.plan, splits)):
        return _told(found, "demo")
    _read(chain)
    if splits:
        chain.dataset = select_splits(chain.dataset, chain.plan, splits)
    if dry_run:
        return _told(estimate_extraction(chain), chain.dataset.name)
    _extracted(chain)
    return [str(chain.regions), str(chain.tokens)]


def _told(found: list[Estimate], dataset: str) -> list[str]:
    artifacts.create_table([e.row() for e in found], "dry-run", f"What extraction of {dataset} would do")
    for row in (e.row() for e in found):
        get_run_logger().info("dry run: %s", ", ".join(f"{key} {value}" for key, value in row.items()))
    return []


def run_training(chain: PipelineRunner, plan: str, given: tuple[str, ...], processes: int | None) -> str:
    """Train and evaluate; a new model is an event, for those who want an index of it."""
    there = list_models(chain.plan.workspace)
    _extracted(chain)
    if processes and processes > 1:
        told = make_epoch_callback(chain.dataset.name), get_run_logger().info
        retry("training", lambda: train_with_torchrun(processes, chain, plan, given, *told))
    _trained(chain)
    name = chain.model.name
    # At once: when the run dies from here on, the model is there, and the next run makes none. Not of a run within a
    # run, which is one of `pipeline` and goes on to the index itself.
    if name not in there and flow_run.parent_flow_run_id is None:
        emit_event(
            MODEL_CREATED,
            {"prefect.resource.id": f"tern.model.{name}", "plan": plan, "model": name},
            payload={"plan": plan, "model": name, "overrides": list(given)},
        )
    _embedded(chain)
    retry("evaluation", lambda: chain.metrics)
    artifacts.create_training_artifacts(chain)
    return str(chain.model)


def run_publish(chain: PipelineRunner) -> str:
    """Build a version and publish it, with a report."""
    _publish(chain)
    artifacts.create_publish_artifacts(chain, write_report(chain))
    return str(chain.index)


def run_reindex(chain: PipelineRunner) -> str | State:
    """As `publish`, unless what is served holds all that there is."""
    before = find_served_version(chain.plan.workspace)[0]
    _publish(chain)
    if chain.index == before:
        return make_nothing_to_do_state(before, chain.dataset.name)
    artifacts.create_publish_artifacts(chain, write_report(chain))
    return str(chain.index)


def _read(chain: PipelineRunner) -> None:
    """The records of the dataset."""
    retry("reading of the dataset", lambda: chain.dataset)


def _extracted(chain: PipelineRunner) -> None:
    """Both stores of features, and tables of them. Their shards are tasks, which have retries of their own."""
    _read(chain)
    wait_for_lock("extraction of regions", lambda: chain.regions)
    wait_for_lock("extraction of tokens", lambda: chain.tokens)
    retry(
        "the tables of the stores", lambda: artifacts.create_store_tables(chain)
    )  # before what may fail for want of records


def _trained(chain: PipelineRunner) -> None:
    """Train the model if it is not there."""
    retry("training", lambda: chain.model)


def _embedded(chain: PipelineRunner) -> VectorStores:
    return wait_for_lock("embedding", lambda: chain.vectors)


def _publish(chain: PipelineRunner) -> None:
    """Run the index stage. A candidate that is refused fails the run, its report attached; what was served still is."""
    _extracted(chain)
    _trained(chain)
    vectors = _embedded(chain)  # the stages before the index have errors of their own
    try:
        made = retry("publishing", lambda: chain.index)
        get_run_logger().info("index %s over %s and %s", made.stem, vectors.images.name, vectors.captions.name)
    except RejectedError as error:  # and no other, such as of a lock that is held
        artifacts.create_rejection_artifacts(error, _still_served(chain.plan.workspace))
        raise


def _still_served(workspace: Path) -> str:
    try:
        return find_served_version(workspace)[0].stem
    except (FileNotFoundError, ValueError) as error:
        return f"nothing: {error}"

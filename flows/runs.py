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

from flows import artifacts
from flows.logs import in_run_log
from flows.parameters import read_plan
from flows.pools import patiently, undisturbed
from flows.schedule import nothing_to_do
from flows.tasks import as_tasks, on_epoch
from index import RefusedError
from pipeline import indexing
from pipeline.backfill import Estimate, estimate, only, undrawn
from pipeline.chain import Chain
from pipeline.report import write_report
from pipeline.several import train_in
from pipeline.stages import Vectors

SHARD_SECONDS = 60 * float(os.environ.get("TERN_SHARD_MINUTES", "60"))
CHECKPOINT = "tern.checkpoint.made"  # the event of a new model that may make a new index (prefect.yaml)


@contextmanager
def carried_out(
    plan: str,
    overrides: Sequence[str],
    model: str | None = None,
    update: bool = False,
    version: int | None = None,
    **typed: Any,
) -> Iterator[Chain]:
    """The chain of a plan, its shards tasks, its lines in the run's log.

    `model` pins one of the workspace's models, by name. `update` has the last stage bring the published index, or
    `version`, to what there is, with its model unless one is given.
    """
    loaded = read_plan(plan, overrides, **typed)
    dataset = loaded.dataset.name if loaded.dataset else "demo"
    with in_run_log():
        pinned = indexing.trained(loaded.workspace, model) if model else None
        indexed = indexing.build_index
        if update:
            pinned = pinned or indexing.served(loaded.workspace, version)[1]
            indexed = partial(indexing.update_index, upkeep=loaded.upkeep, version=version, whole=True)
        yield Chain(loaded, as_tasks(loaded.workers, dataset, SHARD_SECONDS), on_epoch(dataset), pinned, indexed)


def extract(chain: Chain, splits: list[str] | None, dry_run: bool) -> list[str]:
    """Both stores of the chain, or a table of what they lack; returns the folders that were filled."""
    if dry_run and (found := undrawn(chain.plan, splits)):
        return _told(found, "demo")
    _read(chain)
    if splits:
        chain.dataset = only(chain.dataset, chain.plan, splits)
    if dry_run:
        return _told(estimate(chain), chain.dataset.name)
    _extracted(chain)
    return [str(chain.regions), str(chain.tokens)]


def _told(found: list[Estimate], dataset: str) -> list[str]:
    artifacts.table([e.row() for e in found], "dry-run", f"What extraction of {dataset} would do")
    for row in (e.row() for e in found):
        get_run_logger().info("dry run: %s", ", ".join(f"{key} {value}" for key, value in row.items()))
    return []


def train(chain: Chain, plan: str, given: tuple[str, ...], processes: int | None) -> str:
    """Train and evaluate; a new model is an event, for those who want an index of it."""
    there = indexing.models(chain.plan.workspace)
    _extracted(chain)
    if processes and processes > 1:
        told = on_epoch(chain.dataset.name), get_run_logger().info
        patiently("training", lambda: train_in(processes, chain, plan, given, *told))
    _trained(chain)
    name = chain.model.name
    # At once: when the run dies from here on, the model is there, and the next run makes none. Not of a run within a
    # run, which is one of `pipeline` and goes on to the index itself.
    if name not in there and flow_run.parent_flow_run_id is None:
        emit_event(
            CHECKPOINT,
            {"prefect.resource.id": f"tern.model.{name}", "plan": plan, "model": name},
            payload={"plan": plan, "model": name, "overrides": list(given)},
        )
    _embedded(chain)
    patiently("evaluation", lambda: chain.metrics)
    artifacts.training(chain)
    return str(chain.model)


def publish(chain: Chain) -> str:
    """Build a version and publish it, with a report."""
    _publish(chain)
    artifacts.published(chain, write_report(chain))
    return str(chain.index)


def renew(chain: Chain) -> str | State:
    """As `publish`, unless what is served holds all that there is."""
    before = indexing.served(chain.plan.workspace)[0]
    _publish(chain)
    if chain.index == before:
        return nothing_to_do(before, chain.dataset.name)
    artifacts.published(chain, write_report(chain))
    return str(chain.index)


def _read(chain: Chain) -> None:
    """The records of the data set."""
    patiently("reading of the data set", lambda: chain.dataset)


def _extracted(chain: Chain) -> None:
    """Both stores of features, and tables of them. Their shards are tasks, which have retries of their own."""
    _read(chain)
    undisturbed("extraction of regions", lambda: chain.regions)
    undisturbed("extraction of tokens", lambda: chain.tokens)
    patiently("the tables of the stores", lambda: artifacts.stores(chain))  # before what may fail for want of records


def _trained(chain: Chain) -> None:
    """Train the model if it is not there."""
    patiently("training", lambda: chain.model)


def _embedded(chain: Chain) -> Vectors:
    return undisturbed("embedding", lambda: chain.vectors)


def _publish(chain: Chain) -> None:
    """Run the index stage. A candidate that is refused fails the run, its report attached; what was served still is."""
    _extracted(chain)
    _trained(chain)
    vectors = _embedded(chain)  # the stages before the index have errors of their own
    try:
        made = patiently("publishing", lambda: chain.index)
        get_run_logger().info("index %s over %s and %s", made.stem, vectors.images.name, vectors.captions.name)
    except RefusedError as error:  # and no other, such as of a lock that is held
        artifacts.refused(error, _still_served(chain.plan.workspace))
        raise


def _still_served(workspace: Path) -> str:
    try:
        return indexing.served(workspace)[0].stem
    except (FileNotFoundError, ValueError) as error:
        return f"nothing: {error}"

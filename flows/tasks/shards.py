"""A stage's shards as Prefect tasks, and what a watcher sees of them."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

from prefect import State, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from flows.tasks.retries import JITTER, RETRY_DELAYS, is_retryable
from flows.tasks.task_runners import GPU_TAG, read_task_runner_name, request_gpu
from flows.tasks.worker_pool import WorkerPool
from pipeline.runs import make_process_map, uses_gpu
from pipeline.stages import MapFn
from tern.training import EpochProgress, OnEpoch

UPDATE_SECONDS = 1.0  # an update costs 20 ms of the server


def _may_pass(task: Any, run: Any, state: State) -> bool:
    try:
        state.result()
    except Exception as error:  # whatever the shard raised: it is looked at, not handled
        return is_retryable(error)
    return False


# No cache: Prefect's has no task in its key. The shard's own name and checksum say whether it is there already.
# No tags but a GPU's: each costs seconds at the first wave. No timeout: on threads it fires only after the blocking
# call; the time limit is that of `Workers`.
@task(
    name="shard",
    task_run_name="{stage} {dataset} {number:03d}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=_may_pass,
)
def shard(stage: str, dataset: str, number: int, work: Callable[[], str]) -> str:
    """Make one shard; returns its file name."""
    made = work()
    get_run_logger().info("%s shard %d: %s", stage, number, made)
    return made


@task(
    name="epoch",
    task_run_name="epoch {dataset} {progress.epoch.epoch:03d}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def epoch(dataset: str, progress: EpochProgress) -> None:
    """Show a finished training epoch in the flow run: a task in its graph, a line in its log."""
    text = "epoch %d of %d: loss %.3f, val R@1 %.1f text to image, %.1f image to text, rsum %.1f, %.0f s left"
    result = progress.epoch
    metrics = result.validation
    recalls = metrics.t2i.r1, metrics.i2t.r1, metrics.rsum
    get_run_logger().info(text, result.epoch, progress.num_epochs, result.loss, *recalls, progress.seconds_left)


def make_epoch_callback(dataset: str) -> OnEpoch:
    """Make the function that a training calls after each epoch: it runs a task and updates the progress artifact."""
    artifact = None

    def show_epoch(progress: EpochProgress) -> None:
        nonlocal artifact
        epoch(dataset, quote(progress))
        number, total = progress.epoch.epoch, progress.num_epochs
        text = f"training {dataset}: epoch {number} of {total}, {progress.seconds_left:,.0f} s left"
        percent = 100 * number / total
        if artifact is None:
            artifact = create_progress_artifact(percent, key="training-progress", description=text)
        else:
            update_progress_artifact(artifact, percent, description=text)

    return show_epoch


def make_task_map_factory(workers: int, dataset: str, seconds: float | None = None) -> Callable[[str], MapFn]:
    """For each stage a `map` whose every shard is a task: the task waits, a worker of `open_pool` works.

    `seconds` is the time limit of a shard. The results come in the order of the jobs. A failed shard fails the run
    when the others have ended: what they made is kept. A run that is stopped takes its processes with it.
    """

    def each_of(label: str) -> MapFn:
        if label == "draw scenes":  # its results are facts, not paths: they stay inside the flow's process
            return make_process_map(workers, label)
        stage = label.replace(" ", "-")

        def each(function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
            jobs = list(jobs)
            if not jobs:
                return []
            on_gpu = uses_gpu(jobs[0])
            kind = shard.with_options(tags=[GPU_TAG]) if on_gpu else shard
            with (
                WorkerPool(jobs, workers, seconds) if read_task_runner_name() == "threads" else nullcontext() as pool,
                request_gpu(on_gpu),
            ):
                # Prefect links tasks that share an object, and these share none. No `quote`: Dask makes a tuple of it.
                work = [partial(pool.run, function, job) if pool else partial(function, job) for job in jobs]
                futures = [kind.submit(stage, dataset, number, waits) for number, waits in enumerate(work)]
                _follow(stage, futures, [getattr(job, "num_items", 1) for job in jobs])
                return [future.result() for future in futures]

        return each

    return each_of


def _follow(stage: str, futures: list[Any], sizes: list[int]) -> None:
    """Move the stage's progress artifact as its shards end, at most once a second. A failed shard is nothing done."""
    total, done, failed, left, began, last = sum(sizes), 0, 0, len(futures), time.monotonic(), 0.0
    size = dict(zip(futures, sizes, strict=True))
    artifact = create_progress_artifact(0.0, key=f"{stage}-progress", description=f"{stage}: 0 of {total:,}")
    for future in as_completed(futures):
        future.wait()  # it has ended; without this Prefect asks the server for its state, which may not know yet
        good = future.state.is_completed()
        done, failed, left = done + good * size[future], failed + (not good) * size[future], left - 1
        now = time.monotonic()
        if now - last > UPDATE_SECONDS or not left:
            rate = max(done, 1) / max(now - began, 1e-9)
            text = f"{stage}: {done:,} of {total:,}, {rate:,.1f} a second, {(total - done - failed) / rate:,.0f} s left"
            text += f", {failed:,} failed" if failed else ""
            update_progress_artifact(artifact, 100 * done / total, description=text)
            last = now

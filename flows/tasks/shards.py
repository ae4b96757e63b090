"""Shards and training epochs as Prefect tasks, with progress artifacts."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any
from uuid import UUID

from prefect import State, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from data.text import escape_markdown
from flows.tasks.artifact_keys import make_key
from flows.tasks.retries import JITTER, RETRY_DELAYS, is_retryable
from flows.tasks.task_runners import GPU_TAG, read_task_runner_name, request_gpu
from flows.tasks.worker_pool import WorkerPool
from pipeline.workers import DRAW_SCENES, HASH_IMAGES, MapFn, make_process_map, uses_gpu
from tern.training import EpochProgress, OnEpoch

UPDATE_SECONDS = 1.0  # between two updates of an artifact; an update costs 20 ms of the server


def _has_retryable_error(task: Any, run: Any, state: State) -> bool:
    try:
        state.result()
    except Exception as error:  # any error of the task; its kind decides
        return is_retryable(error)
    return False


# NO_CACHE: the cache key of Prefect does not contain the task. A finished shard is found by its name and checksum.
# No tags except that of a GPU: each tag costs seconds when the first tasks start. No timeout: on threads it takes
# effect only after the blocking call. `WorkerPool` has the time limit.
@task(
    name="shard",
    task_run_name="{stage} {dataset} {number:03d}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=_has_retryable_error,
)
def shard(stage: str, dataset: str, number: int, work: Callable[[], str]) -> str:
    """Write one shard.

    Args:
        stage: Name of the stage; part of the name of the task run.
        dataset: Name of the dataset; likewise.
        number: Number of the shard, from 0; likewise.
        work: Writes the shard and returns its file name.

    Returns:
        The file name of the shard.
    """
    file_name = work()
    get_run_logger().info("%s shard %d: %s", stage, number, file_name)
    return file_name


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
    """Make the function that a training calls after each epoch.

    It runs a task and updates the progress artifact.
    """
    artifact = None

    def show_epoch(progress: EpochProgress) -> None:
        nonlocal artifact
        epoch(dataset, quote(progress))  # type: ignore[call-overload]  # Prefect replaces a quote by its content
        number, total = progress.epoch.epoch, progress.num_epochs
        text = f"training {dataset}: epoch {number} of {total}, {progress.seconds_left:,.0f} s left"
        percent = 100 * number / total
        if artifact is None:
            artifact = _create_progress("training-progress", percent, text)
        else:
            update_progress_artifact(artifact, percent, description=escape_markdown(text))

    return show_epoch


def make_task_map_factory(
    num_workers: int, dataset: str, timeout_seconds: float | None = None
) -> Callable[[str], MapFn]:
    """Make the function that returns, for a stage, a map function whose jobs are tasks.

    On the task runner `threads`, a task waits while a worker process of `WorkerPool` runs the job. If a job fails, the
    map function raises its error after all other jobs have ended, so that finished shards are kept. When the run stops,
    its worker processes end.

    Args:
        num_workers: Maximum number of jobs that run at the same time.
        dataset: Name of the dataset, for the names of the task runs.
        timeout_seconds: Time limit of one job; None means no limit.
    """

    def make_map_fn(label: str) -> MapFn:
        if label in (DRAW_SCENES, HASH_IMAGES):  # not tasks: these jobs return objects instead of file names
            return make_process_map(num_workers, label)
        stage = label.replace(" ", "-")

        def map_as_tasks(function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
            jobs = list(jobs)
            if not jobs:
                return []
            on_gpu = uses_gpu(jobs[0])
            shard_task = shard.with_options(tags=[GPU_TAG]) if on_gpu else shard
            runs_on_threads = read_task_runner_name() == "threads"
            with (
                WorkerPool(jobs, num_workers, timeout_seconds) if runs_on_threads else nullcontext() as pool,
                request_gpu(on_gpu),
            ):
                # Prefect links tasks that share an argument object; a `partial` per job shares none. `quote` cannot be
                # used, because Dask turns it into a tuple.
                work = [partial(pool.run, function, job) if pool else partial(function, job) for job in jobs]
                futures = [shard_task.submit(stage, dataset, number, call) for number, call in enumerate(work)]
                _show_progress(stage, futures, [getattr(job, "num_items", 1) for job in jobs])
                return [future.result() for future in futures]

        return map_as_tasks

    return make_map_fn


def _show_progress(stage: str, futures: list[Any], sizes: list[int]) -> None:
    """Update the progress artifact of a stage while its shards end.

    Items of a failed shard do not count as done.
    """
    total, done, failed, num_left = sum(sizes), 0, 0, len(futures)
    start, last_update = time.monotonic(), 0.0
    size_by_future = dict(zip(futures, sizes, strict=True))
    artifact = _create_progress(f"{stage}-progress", 0.0, f"{stage}: 0 of {total:,}")
    for future in as_completed(futures):
        future.wait()  # it has ended, but without this Prefect asks the server for its state, which may be outdated
        size, is_completed = size_by_future[future], future.state.is_completed()
        done, failed, num_left = done + is_completed * size, failed + (not is_completed) * size, num_left - 1
        now = time.monotonic()
        if now - last_update > UPDATE_SECONDS or not num_left:
            rate = max(done, 1) / max(now - start, 1e-9)
            seconds_left = (total - done - failed) / rate
            text = f"{stage}: {done:,} of {total:,}, {rate:,.1f} items per second, {seconds_left:,.0f} s left"
            text += f", {failed:,} failed" if failed else ""
            update_progress_artifact(artifact, 100 * done / total, description=text)
            last_update = now


def _create_progress(key: str, percent: float, text: str) -> UUID:
    artifact = create_progress_artifact(percent, key=make_key(key), description=escape_markdown(text))
    assert isinstance(artifact, UUID)  # a coroutine only in an asynchronous flow
    return artifact

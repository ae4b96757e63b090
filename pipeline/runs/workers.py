"""The `map` of a stage: in this process, over single-threaded worker processes, or over threads that share a GPU."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from typing import Any

from pipeline.progress import progress_bar
from pipeline.stages.results import MapFn

JOBS_PER_GPU = 2  # jobs that share a device: one is extracted while the other is written


def make_process_map(num_workers: int, label: str) -> MapFn:
    """A `map` over workers (in this process where one job or one worker is all there is); see `pool_for`.

    Results come in the order of the jobs. The bar counts a job's `size`, if it has one. The first error ends the run.
    """

    def each(function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
        jobs = list(jobs)
        if not jobs:
            return []
        sizes = [getattr(job, "num_items", 1) for job in jobs]
        with progress_bar(label, sum(sizes)) as advance:
            if min(num_workers, len(jobs)) == 1:
                return [_and(advance, size, function(job)) for job, size in zip(jobs, sizes, strict=True)]
            with open_pool(jobs, num_workers) as pool:
                futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
                try:
                    for future in as_completed(futures):
                        future.result()
                        advance(sizes[futures[future]])
                except BaseException:  # also Ctrl-C: what is queued is not begun; the error goes on
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                return [future.result() for future in futures]

    return each


def _and(advance: Callable[[int], None], size: int, result: Any) -> Any:
    advance(size)
    return result


def open_pool(jobs: list[Any], workers: int) -> AbstractContextManager[Executor]:
    """Worker processes for the jobs; or threads of this one for those that share a device (`uses_gpu`)."""
    if uses_gpu(jobs[0]):
        return ThreadPoolExecutor(min(workers, len(jobs), JOBS_PER_GPU), thread_name_prefix="shard")
    modules = [type(jobs[0]).__module__]
    if preload := getattr(jobs[0], "preload", None):
        modules.append(preload)
    return process_pool(min(workers, len(jobs)), modules)


def uses_gpu(job: Any) -> bool:
    """Whether a job is carried out by a GPU, which others use too."""
    return getattr(job, "uses_gpu", False)


@contextmanager
def process_pool(workers: int, modules: Sequence[str] = ("builtins",)) -> Iterator[ProcessPoolExecutor]:
    """Workers of one thread each: two spinning OpenMP teams on the same cores cost more than they give.

    `modules` are the module of the jobs, and the one that a job names as `preload` because its function imports it
    late. They are imported once, by a process from which the workers of all stages are forked: torch and torchvision
    take seconds to import. Jobs of plain values need no module, and their workers are spawned.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    plain = modules[0].partition(".")[0] in sys.stdlib_module_names
    forked = not plain and sys.platform == "linux"  # elsewhere forking after such imports is not safe
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload([*modules])
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            yield pool
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever; it ends with it instead."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])  # type: ignore[union-attr]
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()

"""Map functions that run the jobs of a stage: in this process, in worker processes, or in threads that share a GPU."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from data.text import make_logs_printable
from pipeline.progress import progress_bar

MapFn = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""The signature of the built-in `map`, as stages use it."""
MakeMapFn = Callable[[str], MapFn]
"""Returns the map function for the jobs of a stage, given the name of the stage."""
DRAW_SCENES, HASH_IMAGES = "draw scenes", "hash images"  # stages whose jobs return objects, not names of files
JOIN_SECONDS = 5.0  # a broken pool ends its workers at once
INTERRUPTED = 128 + signal.SIGINT  # exit code of a worker at Ctrl-C
JOBS_PER_GPU = 2  # one job extracts while the other one writes its shard


def make_process_map(num_workers: int, label: str) -> MapFn:
    """Make a map function with a progress bar; see `open_pool` for the workers.

    A single job, or a single worker, runs in this process. The first error ends the run: queued jobs do not start.

    Args:
        num_workers: Maximum number of jobs that run at the same time, at least 1.
        label: Label of the progress bar, which counts the items (`num_items`) of finished jobs.

    Returns:
        The map function. It returns the results in the order of the jobs.
    """

    def map_jobs(function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
        jobs = list(jobs)
        if not jobs:
            return []
        sizes = [getattr(job, "num_items", 1) for job in jobs]
        with progress_bar(label, sum(sizes)) as advance:
            if min(num_workers, len(jobs)) == 1:
                return [
                    _advance_and_return(advance, size, function(job)) for job, size in zip(jobs, sizes, strict=True)
                ]
            num_done = 0
            with open_pool(jobs, num_workers) as pool:
                futures = {pool.submit(function, job): number for number, job in enumerate(jobs)}
                processes = list_processes(pool)
                try:
                    for future in as_completed(futures):
                        future.result()
                        num_done += sizes[futures[future]]
                        advance(sizes[futures[future]])
                except BrokenExecutor as error:
                    done = f"{num_done:,} of {sum(sizes):,} items of the stage {label!r} are finished"
                    raise make_lost_worker_error(processes, done) from error
                except BaseException:  # Ctrl-C too
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                return [future.result() for future in futures]

    return map_jobs


def _advance_and_return(advance: Callable[[int], None], size: int, result: Any) -> Any:
    advance(size)
    return result


class LostWorkerError(BrokenExecutor):
    """A worker process ended before its job; the message has the cause and the next step. It may be retried."""


def list_processes(pool: Executor) -> list[BaseProcess]:
    """List the worker processes of a pool that has received its first job; none for threads."""
    return list((getattr(pool, "_processes", None) or {}).values())


def make_lost_worker_error(processes: Sequence[BaseProcess], done: str = "") -> LostWorkerError | KeyboardInterrupt:
    """Build the error for a pool that has lost a worker; an interrupt if the worker has ended at Ctrl-C before us.

    Args:
        processes: The worker processes of the pool, which ends them all when it has lost one.
        done: What is finished, as a clause; empty if it is unknown.
    """
    for process in processes:
        process.join(JOIN_SECONDS)
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
    if INTERRUPTED in codes:
        return KeyboardInterrupt()
    if -signal.SIGKILL in codes:
        cause = "was killed (signal 9), most often because memory is exhausted"
    elif codes:
        cause = f"ended by signal {-codes[0]}" if codes[0] < 0 else f"ended with code {codes[0]}"
    else:
        cause = "ended before its job"
    return LostWorkerError(
        f"A worker process {cause}{f'; {done}' if done else ''}. Run the same command again: finished shards are kept. "
        "If it happens again, pass `--set workers=1` or a smaller `images_per_shard`."
    )


def use_builtin_map(stage: str) -> MapFn:
    """Run the jobs of every stage one after the other in this process, without progress."""
    return map


def open_pool(jobs: list[Any], num_workers: int) -> AbstractContextManager[Executor]:
    """Open worker processes for jobs, or threads of this process for jobs that share a GPU or only read and write."""
    if uses_gpu(jobs[0]) or getattr(jobs[0], "is_io_bound", False):
        num_threads = min(num_workers, len(jobs), JOBS_PER_GPU if uses_gpu(jobs[0]) else num_workers)
        return ThreadPoolExecutor(num_threads, thread_name_prefix="shard")
    modules = [type(jobs[0]).__module__]
    if preload := getattr(jobs[0], "preload", None):
        modules.append(preload)
    return process_pool(min(num_workers, len(jobs)), modules)


def uses_gpu(job: Any) -> bool:
    """Return whether a job runs on a GPU, which it shares with other jobs."""
    return getattr(job, "uses_gpu", False)


@contextmanager
def process_pool(num_workers: int, modules: Sequence[str] = ("builtins",)) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of worker processes with one OpenMP thread each.

    Two OpenMP teams on the same cores slow each other down, because their waiting threads spin.

    Args:
        num_workers: Number of worker processes.
        modules: Module of the jobs, and modules that their function imports late. On Linux a server process imports
            them once and forks the workers of all stages, because importing torch and torchvision takes seconds. Jobs
            of a class of the standard library need no import; their workers are spawned.
    """
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    is_stdlib = modules[0].partition(".")[0] in sys.stdlib_module_names
    use_fork = not is_stdlib and sys.platform == "linux"  # on other systems, forking after such imports is not safe
    context = multiprocessing.get_context("forkserver" if use_fork else "spawn")
    if use_fork:
        context.set_forkserver_preload([*modules])
    try:
        with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_exit_with_parent) as pool:
            yield pool
    finally:
        os.environ.pop("OMP_NUM_THREADS") if previous is None else os.environ.update(OMP_NUM_THREADS=previous)


def _exit_with_parent() -> None:
    """Exit when the parent process ends, and without a traceback at Ctrl-C.

    Without this, a worker of a killed parent would wait for jobs forever.
    """
    make_logs_printable()
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    parent = multiprocessing.parent_process()

    def exit_after_parent() -> None:
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=exit_after_parent, daemon=True).start()

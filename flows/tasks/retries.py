"""Which errors are retried, and how: shards and stages after transient errors, stages while a write lock is held."""

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from data.io import TRANSIENT_ERRNOS, WriteLockError
from data.settings import read_settings

RETRY_DELAYS: list[float] = [2, 10, 60]  # seconds
JITTER = 0.5  # random share that is added to a delay
LOCK_POLL_SECONDS = 5.0
T = TypeVar("T")
log = logging.getLogger(__name__)


class StageStoppedError(Exception):
    """The stage has ended, because another shard failed or the run was cancelled. It is not retried."""


def is_retryable(error: BaseException) -> bool:
    """Return whether an error may not occur again.

    That is a lost worker or a transient I/O error, but not invalid input.
    """
    if isinstance(error, TimeoutError) and error.errno is None:
        return False  # a job that exceeded its time limit would exceed it again; with an errno, a mount did not respond
    return isinstance(error, BrokenExecutor) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS)


def retry(stage: str, call: Callable[[], T]) -> T:
    """Call a stage that is not a task, with the same retries as a shard.

    It also waits for locks (`wait_for_lock`).

    The stages resume: a training from its last checkpoint, an index from the shards that are already written.

    Args:
        stage: Name of the stage for the log.
        call: The call.

    Raises:
        Exception: What the call raised, if it is not retryable or if the last try failed.
    """
    for delay in RETRY_DELAYS:
        try:
            return wait_for_lock(stage, call)
        except Exception as error:  # its kind decides whether it is retried
            if not is_retryable(error):
                raise
            seconds = delay * (1 + random.uniform(0, JITTER))
            log.warning("%s: %s; next try in %.0f s", stage, error, seconds)
        time.sleep(seconds)
    return wait_for_lock(stage, call)


def wait_for_lock(stage: str, call: Callable[[], T]) -> T:
    """Call a stage, and repeat the call while another process writes to the same store, model or index.

    Args:
        stage: Name of the stage for the log.
        call: The call.

    Raises:
        WriteLockError: The lock is still held after TERN_LOCK_TIMEOUT_MINUTES. The message names the process.
    """
    start, is_logged, timeout_seconds = time.monotonic(), False, 60 * read_settings().lock_timeout_minutes
    while True:
        try:
            return call()
        except WriteLockError as error:
            if time.monotonic() - start >= timeout_seconds:
                raise
            if not is_logged:
                log.warning("%s waits, at most %.0f min: %s", stage, timeout_seconds / 60, error)
            is_logged = True
        time.sleep(LOCK_POLL_SECONDS)

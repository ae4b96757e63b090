"""Retries of `flows`."""

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from data.io import TRANSIENT_ERRNOS, WriteLockError
from data.settings import read_settings

RETRY_DELAYS = [2, 10, 60]  # a busy disk, a lost worker: soon, later, much later
JITTER = 0.5  # of a wait
LOCK_POLL_SECONDS = 5.0  # between two looks whether it has ended
T = TypeVar("T")
log = logging.getLogger(__name__)


class StageStoppedError(Exception):
    """The stage has ended, by an error elsewhere or because it was cancelled: nothing is tried again."""


def is_retryable(error: BaseException) -> bool:
    """Whether trying again may help: a lost worker, or a fault of the machine such as a busy disk. Never bad input."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return False  # a job past its time would take as long again; with an errno it is a mount that did not answer
    return isinstance(error, BrokenExecutor) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS)


def retry(what: str, make: Callable[[], T]) -> T:
    """make(), tried again like a shard while what it raises can pass: for a stage that is no task.

    The stages take up where they were: a training at its last checkpoint, an index at the shards that are written.
    """
    for wait in RETRY_DELAYS:
        try:
            return wait_for_lock(what, make)
        except Exception as error:  # of any kind: what cannot pass goes on
            if not is_retryable(error):
                raise
            seconds = wait * (1 + random.uniform(0, JITTER))
            log.warning("%s: %s; tried again in %.0f s", what, error, seconds)
        time.sleep(seconds)
    return wait_for_lock(what, make)


def wait_for_lock(what: str, make: Callable[[], T]) -> T:
    """make(), as soon as no other process writes to the same store, model or index.

    Raises HeldError, which names the process, after TERN_LOCK_TIMEOUT_MINUTES (0: at once).
    """
    began, told, timeout_seconds = time.monotonic(), False, 60 * read_settings().lock_timeout_minutes
    while True:
        try:
            return make()
        except WriteLockError as error:
            if time.monotonic() - began >= timeout_seconds:
                raise
            if not told:
                log.warning("%s waits, at most %.0f min: %s", what, timeout_seconds / 60, error)
            told = True
        time.sleep(LOCK_POLL_SECONDS)

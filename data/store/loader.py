"""Batches read ahead by threads: `preadv` lets others run, and rows go from the file into the batch and no further.

Worker processes would have to hand every batch over: a second copy, through shared memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from data.store.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Some items of a store: per-row fields (n, longest, ...) with zeros behind each item, per-item ones (n, ...)."""

    ids: tuple[str, ...]
    values: dict[str, np.ndarray]
    lengths: np.ndarray  # (n,) int64: rows of each item


def iter_batches(
    store: Store, fields: Sequence[str], batches_of_ids: Iterable[Sequence[str]], workers: int = 2, prefetch: int = 4
) -> Iterator[Batch]:
    """Batches in the order asked for, read by `workers` threads, at most `ahead` of them before they are taken.

    Each has fresh arrays, which are the caller's. An error while reading is raised where its batch would have come.
    Ending the iteration early stops the threads. Raises ValueError for `workers` or `ahead` below 1.
    """
    return prefetch_map(partial(read_batch, store, fields), batches_of_ids, workers, prefetch)


def prefetch_map(fn: Callable[[Any], T], items: Iterable[Any], workers: int = 2, ahead: int = 4) -> Iterator[T]:
    """`make(item)` of each item in turn, made ahead by threads; errors and an early end as for `batches`."""
    if workers < 1 or ahead < 1:
        raise ValueError(f"workers and ahead are {workers} and {ahead}; both are 1 or more.")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(fn, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_batch(store: Store, fields: Sequence[str], ids: Sequence[str]) -> Batch:
    """One batch, read in this thread."""
    values = {}
    for name in fields:
        per_item = name in store.fields and store.fields[name].per == "item"
        values[name] = store.read(name, ids) if per_item else store.read_padded(name, ids)[0]
    return Batch(tuple(ids), values, store.lengths(ids))

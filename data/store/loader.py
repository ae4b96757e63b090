"""Read batches of a store in background threads, before they are used.

`preadv` releases the GIL, and rows go from the file into the batch without another copy. Worker processes would need a
second copy, through shared memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from data.store.store import Store

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Columns of some items of a store."""

    ids: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Column name -> (n, longest, ...) with zeros after the rows of each item, or (n, ...) for one value per item."""
    lengths: np.ndarray
    """(n,) int64: number of rows of each item."""


def iter_batches(
    store: Store,
    fields: Sequence[str],
    batches_of_ids: Iterable[Sequence[str]],
    num_threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Read batches of items from a store with background threads, in the order requested.

    Args:
        store: Store to read.
        fields: Names of the columns to read.
        batches_of_ids: One sequence of item ids per batch.
        num_threads: Number of threads; at least 1.
        prefetch: Maximum number of batches read before the consumer asks for them; at least 1.

    Yields:
        One `Batch` per entry of `batches_of_ids`; its arrays are newly allocated and owned by the caller.

    Raises:
        ValueError: `num_threads` or `prefetch` is below 1, or an id is not in the store.
    """
    return prefetch_map(partial(read_batch, store, fields), batches_of_ids, num_threads, prefetch)


def prefetch_map(fn: Callable[[S], T], items: Iterable[S], num_threads: int = 2, prefetch: int = 4) -> Iterator[T]:
    """Apply a function to items with background threads, in order.

    An early end of the iteration stops the threads.

    Args:
        fn: Function of one item; called from several threads.
        items: Arguments, read in the calling thread.
        num_threads: Number of threads; at least 1.
        prefetch: Maximum number of results computed before the consumer asks for them; at least 1.

    Yields:
        One result per item; an exception of `fn` is raised in place of its result.

    Raises:
        ValueError: `num_threads` or `prefetch` is below 1.
    """
    if num_threads < 1 or prefetch < 1:
        raise ValueError(f"num_threads and prefetch are {num_threads} and {prefetch}; both must be at least 1.")
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="batches")
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(fn, item))
            if len(pending) >= prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_batch(store: Store, fields: Sequence[str], ids: Sequence[str]) -> Batch:
    """Read one batch in the calling thread.

    Args:
        store: Store to read.
        fields: Names of the columns to read.
        ids: Item ids, in the order wanted.

    Raises:
        ValueError: An id is not in the store.
    """
    values = {}
    for name in fields:
        per_item = name in store.fields and store.fields[name].per == "item"
        values[name] = store.read(name, ids) if per_item else store.read_padded(name, ids)[0]
    return Batch(tuple(ids), values, store.lengths(ids))

"""Files to regions, in their order: threads decode and prepare the next images while the model works on these."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np

from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions, check_image

DEVICE_LOCK = (
    Lock()
)  # a process has one device: shards that are extracted side by side in it take turns, batch by batch


def extract_from_paths(
    extractor: RegionExtractor,
    paths: Iterable[Any],
    load: Callable[[Any], np.ndarray],
    threads: int | None = None,
    prefetch: int | None = None,
) -> Iterator[Regions | str]:
    """For each path, in order: its regions, or the reason why the image is set aside.

    `load` gives the pixels of a path, `(h, w, 3)` uint8 RGB. Its ValueError or FileNotFoundError sets that image
    aside; every other error, such as the OSError of a failing disk, ends the stream. At most `ahead` images that have
    not been yielded are being read, held as inputs, or held as results. Of these, up to `extractor.batch_size` with
    inputs of one size go through the model together. Without numbers, there are as many threads as images in a batch
    (and cores), and three batches ahead. Closing the iterator ends the threads.
    """
    threads = threads or min(extractor.batch_size, os.cpu_count() or 1)
    prefetch = prefetch or 3 * extractor.batch_size

    def ready(path: Any) -> PreprocessedImage | str:
        try:
            pixels = check_image(load(path))
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return extractor.preprocess(pixels)

    rest = iter(paths)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        window = [_Entry(pool.submit(ready, path)) for path in islice(rest, prefetch)]
        while window:
            if window[0].result is None:
                _answer(extractor, window)
            yield window.pop(0).result  # type: ignore[misc]
            window += [_Entry(pool.submit(ready, path)) for path in islice(rest, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


class _Entry:
    """An image of the window: its input as it comes, then its result in its place."""

    def __init__(self, prepared: Future[PreprocessedImage | str]) -> None:
        self.prepared: Future[PreprocessedImage | str] | None = prepared
        self.result: Regions | str | None = None

    def answer(self, result: Regions | str) -> None:
        self.result, self.prepared = result, None  # the input goes as soon as it is used


def _answer(extractor: RegionExtractor, window: list[_Entry]) -> None:
    """Answer the first entry, and with it the next ones that fit into its batch: which, the clock has no say in."""
    first = window[0].prepared.result()  # type: ignore[union-attr]
    if isinstance(first, str):
        window[0].answer(first)
        return
    batch, inputs = [window[0]], [first]
    for entry in window[1:]:
        if len(batch) == extractor.batch_size:
            break
        other = None if entry.prepared is None else entry.prepared.result()
        if isinstance(other, PreprocessedImage) and other.input.shape == first.input.shape:
            batch.append(entry)
            inputs.append(other)
    with DEVICE_LOCK:
        found = extractor.extract(inputs)
    for entry, regions in zip(batch, found, strict=True):
        entry.answer(regions)

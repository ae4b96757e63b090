"""Extract the regions of many images in order, while threads decode and preprocess the next ones.

Used by the extraction stage; `DEVICE_LOCK` is also used for captions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Any

from data.images import ReducedImage
from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions, check_image

DEVICE_LOCK = Lock()
"""Held during each forward pass: a process has one device, and shards in several threads use it in turn."""


def extract_from_paths(
    extractor: RegionExtractor,
    paths: Iterable[Any],
    load: Callable[[Any], ReducedImage],
    threads: int | None = None,
    prefetch: int | None = None,
) -> Iterator[Regions | str]:
    """Extract the regions of many images, in order.

    Up to `extractor.batch_size` images with inputs of the same size are extracted together. Closing the iterator ends
    the threads.

    Args:
        extractor: Extractor to use.
        paths: Paths, or any other values that `load` accepts.
        load: Function that decodes the image of a path, such as `extractor.load`. If it raises ValueError or
            FileNotFoundError, the image is invalid. Every other error, such as the OSError of a failing disk, ends the
            iteration.
        threads: Number of threads that load and preprocess; None uses `extractor.num_loaders`, or as many as images in
            a batch, at most one per core.
        prefetch: Maximum number of images that are loaded, wait as inputs or wait as results; None uses three times the
            larger of these two numbers.

    Yields:
        For each path its regions, or the reason why the image is invalid.
    """
    num_images = max(extractor.batch_size, extractor.num_loaders)
    threads = threads or min(num_images, os.cpu_count() or 1)
    prefetch = prefetch or 3 * num_images

    def load_and_preprocess(path: Any) -> PreprocessedImage | str:
        try:
            image = load(path)
            check_image(image.pixels)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return extractor.preprocess_reduced(image)

    rest = iter(paths)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        window = [_Entry(pool.submit(load_and_preprocess, path)) for path in islice(rest, prefetch)]
        while window:
            if window[0].result is None:
                _process_next_batch(extractor, window)
            result = window.pop(0).result
            assert result is not None  # the batch contains the first entry
            yield result
            window += [_Entry(pool.submit(load_and_preprocess, path)) for path in islice(rest, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


class _Entry:
    """An image of the window: first its input, then its result."""

    def __init__(self, future: Future[PreprocessedImage | str]) -> None:
        self.future: Future[PreprocessedImage | str] | None = future
        self.result: Regions | str | None = None

    def set_result(self, result: Regions | str) -> None:
        """Store the result and release the input."""
        self.result, self.future = result, None


def _process_next_batch(extractor: RegionExtractor, window: list[_Entry]) -> None:
    """Set the result of the first entry, and of the next ones that fit into its batch.

    Waits for the inputs, so that the batches do not depend on the speed of the threads.
    """
    assert window[0].future is not None
    first = window[0].future.result()
    if isinstance(first, str):
        window[0].set_result(first)
        return
    batch, inputs = [window[0]], [first]
    for entry in window[1:]:
        if len(batch) == extractor.batch_size:
            break
        image = None if entry.future is None else entry.future.result()
        if isinstance(image, PreprocessedImage) and image.input.shape == first.input.shape:
            batch.append(entry)
            inputs.append(image)
    with DEVICE_LOCK:
        results = extractor.extract(inputs)
    for entry, regions in zip(batch, results, strict=True):
        entry.set_result(regions)

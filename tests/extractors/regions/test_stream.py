"""Extraction from paths: equal to single images, in order, bounded, and ended by errors of the machine."""

import errno
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.images import ReducedImage
from data.manifest.schema import ShardPlan
from extractors.config import GridConfig, TextConfig, TorchvisionConfig
from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions
from extractors.regions.faster_rcnn import TorchvisionExtractor
from extractors.regions.stream import extract_from_paths
from pipeline.stages.extract import ExtractionJob
from pipeline.workers import make_process_map
from tests.helpers.image_bytes import picture

pytestmark = pytest.mark.slow

PATIENCE = 20  # seconds until an event that should come counts as missing


class Echo(RegionExtractor):
    """Returns one region per image: its first pixel value and the number of images in its batch."""

    classes: tuple[str, ...] = ()
    dim = 2

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size, self.busy = batch_size, 0

    def _settings_recipe(self) -> dict[str, Any]:
        return {}

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        return PreprocessedImage(torch.from_numpy(pixels).permute(2, 0, 1), pixels.shape[1::-1])

    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        self.busy += 1
        assert self.busy == 1, "one batch at a time"
        time.sleep(0.001)
        self.busy -= 1
        assert len({image.input.shape for image in batch}) == 1
        return [_row(int(image.input[0, 0, 0]), len(batch), image.size) for image in batch]


def _row(value: int, mates: int, size: tuple[int, int]) -> Regions:
    one = np.ones(1, np.float32)
    features, boxes = np.array([[value, mates]], np.float16), np.array([[0, 0, *size]], np.float32)
    return Regions(features, boxes, one.astype(np.int32), one, one.astype(np.int32), one, size)


def as_read(pixels: np.ndarray) -> ReducedImage:
    return ReducedImage(pixels, pixels.shape[1::-1])


def pixels(number: int) -> ReducedImage:
    """Three sizes of five images each; every seventh image is invalid, and one does not exist."""
    if number % 7 == 3:
        raise ValueError(f"broken {number}")
    if number == 8:
        raise FileNotFoundError("no image 8")
    return as_read(np.full((4 + number // 5 % 3, 6, 3), number, np.uint8))


def test_extract_from_paths_equals_single_images_with_a_real_network() -> None:
    extractor = TorchvisionExtractor(
        TorchvisionConfig(model="demo", weights="demo", max_regions=5, full_precision=True)
    )
    images = [picture(0, 120, 160), picture(1, 160, 120), picture(2, 120, 160)]
    extractor.batch_size = 1
    for image, found in zip(images, extract_from_paths(extractor, images, as_read, 2, 3), strict=True):
        alone = extractor([image])[0]
        for name, value in vars(alone).items():
            np.testing.assert_array_equal(value, getattr(found, name))


@pytest.mark.parametrize(
    ("batch", "threads", "prefetch", "largest_batch"),
    [(1, 1, 1, 1), (1, 2, 5, 1), (4, 3, 12, 4), (8, 1, 3, 3), (3, None, None, 3), (50, 2, 50, 12)],
)
def test_extract_from_paths_keeps_order_and_forms_the_same_batches_every_time(
    batch: int, threads: int | None, prefetch: int | None, largest_batch: int
) -> None:
    runs = [list(extract_from_paths(Echo(batch), range(40), pixels, threads, prefetch)) for _ in range(2)]
    for number, (found, again) in enumerate(zip(*runs, strict=True)):
        if number == 8 or number % 7 == 3:
            assert found == ("no image 8" if number == 8 else f"broken {number}")
            continue
        assert found.features[0, 0] == number
        assert found.size == (6, 4 + number // 5 % 3)
        assert 1 <= found.features[0, 1] <= batch
        assert found.features[0, 1] == again.features[0, 1], "batches must not depend on the speed of threads"
    mates = [found.features[0, 1] for found in runs[0] if not isinstance(found, str)]
    assert max(mates) == largest_batch


def test_extract_from_paths_loads_at_most_prefetch_images() -> None:
    begun: list[int] = []

    def load(number: int) -> ReducedImage:
        begun.append(number)
        return as_read(np.full((4, 4, 3), number, np.uint8))

    for done, _ in enumerate(extract_from_paths(Echo(2), range(30), load, threads=3, prefetch=6)):
        time.sleep(0.002)  # enough time for the threads to load more
        assert len(begun) <= done + 6
    assert sorted(begun) == list(range(30))


def test_extract_from_paths_decodes_while_the_model_works() -> None:
    decoded, working = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    class Waits(Echo):
        def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
            number = int(batch[0].input[0, 0, 0])
            working[number].set()
            assert decoded[min(number + 1, 3)].wait(PATIENCE), "the next image is decoded while this one is extracted"
            return super().extract(batch)

    def load(number: int) -> ReducedImage:
        if number:
            assert working[number - 1].wait(PATIENCE), "the previous image is extracted while this one is decoded"
        decoded[number].set()
        return as_read(np.full((4, 4, 3), number, np.uint8))

    assert len(list(extract_from_paths(Waits(), range(4), load, threads=1, prefetch=2))) == 4


def test_extract_from_paths_ends_at_an_os_error_and_closing_ends_its_threads() -> None:
    def load(number: int) -> ReducedImage:
        if number == 5:
            raise OSError(errno.EIO, "the disk is failing")
        return as_read(np.full((4, 4, 3), number, np.uint8))

    found = extract_from_paths(Echo(), range(20), load, threads=2, prefetch=4)
    assert [next(found).features[0, 0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is failing"):
        next(found)
    zeros = as_read(np.zeros((4, 4, 3), np.uint8))
    endless = extract_from_paths(Echo(), iter(int, 1), lambda _: zeros, threads=2, prefetch=4)
    next(endless)
    endless.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


class GpuJob:
    """A job that uses a GPU."""

    num_items, uses_gpu = 1, True

    def __init__(self, extractor: RegionExtractor) -> None:
        self.extractor = extractor


def test_jobs_on_one_gpu_run_in_threads_in_turn() -> None:
    """Two run at a time in this process, and one of them is in the model: `Echo` fails if both are."""
    barrier, thread_ids = threading.Barrier(2), set()

    def shard(job: GpuJob) -> list[float]:
        barrier.wait(PATIENCE)  # two shards run
        thread_ids.add(threading.get_ident())
        return [found.features[0, 0] for found in extract_from_paths(job.extractor, [1, 2, 5, 6], pixels)]

    extractor = Echo(2)
    results = make_process_map(6, "shards")(shard, [GpuJob(extractor) for _ in range(4)])
    assert list(results) == [[1, 2, 5, 6]] * 4
    assert len(thread_ids) == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TorchvisionConfig(device="cuda"), True),
        (GridConfig(device="cuda:1"), True),
        (GridConfig(), False),
        (TextConfig(), False),
    ],
)
def test_extraction_job_uses_gpu_only_on_a_gpu(config: Any, expected: bool) -> None:
    assert ExtractionJob(Path(), ShardPlan(()), config, (), "builtins").uses_gpu is expected

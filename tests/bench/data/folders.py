"""Update a folder of many small images: list, hash and find them unchanged, each run in a process of its own."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image as Picture
from rich.console import Console
from rich.table import Table

from data.config import DatasetConfig, RegionFileConfig
from data.images import scan_image_folder
from data.images.hash_cache import MIN_AGE_NS
from extractors.config import TextConfig
from pipeline.plans.plan import Plan
from pipeline.runs.runner import PipelineRunner

T = TypeVar("T")
IMAGES, PER_FOLDER, SIDE = 100_000, 500, 64


def folders(folder: Path) -> None:
    """100,000 drawn images of 64 pixels in 200 folders, without captions; regions of a file, one row per image."""
    names = _draw(folder / "photos")
    plan = Plan(
        workspace=folder / "run",
        dataset=DatasetConfig(name="many", images=folder / "photos"),
        regions_file=RegionFileConfig(path=_write_regions(folder, names), feature_arrays=("f",)),
        text=TextConfig(model="minilm"),
    )
    time.sleep(2 * MIN_AGE_NS / 1e9)  # files that changed in these seconds are not cached
    table = Table("run", "CPU ms per image", "seconds", "peak memory, MB", title=folders.__doc__, title_justify="left")
    for label, function in (
        ("imports of the pipeline alone", _start),
        ("the folder is listed", _list),
        ("first run: listed, hashed, regions copied from the file", _run),
        ("second run: listed, found unchanged", _run),
    ):
        cpu_seconds, seconds, megabytes = measure(function, plan)
        table.add_row(label, f"{1000 * cpu_seconds / len(names):.3f}", f"{seconds:.1f}", f"{megabytes:,.0f}")
    Console(width=120).print(table)


def _draw(root: Path) -> list[str]:
    rng, names = np.random.default_rng(0), [f"{k // PER_FOLDER:04d}/{k:06d}.png" for k in range(IMAGES)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Picture.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 255, 3).tolist()))
        picture.paste(tuple(rng.integers(0, 255, 3).tolist()), (*rng.integers(0, 32, 2), *rng.integers(32, 64, 2)))
        picture.save(root / name, compress_level=1)
    return names


def _write_regions(folder: Path, names: list[str]) -> Path:
    rows = {
        "offset": np.arange(len(names) + 1),
        "size": np.full((len(names), 2), SIDE),
        "boxes": np.ones((len(names), 4)),
    }
    features = np.random.default_rng(0).normal(size=(len(names), 4)).astype("f2")
    numbers = np.zeros(len(names), int)
    np.savez(folder / "regions.npz", filename=names, **rows, score=np.ones(len(names)), cls=numbers, f=features)
    return folder / "regions.npz"


def _start(plan: Plan) -> None:
    pass


def _list(plan: Plan) -> None:
    assert plan.dataset is not None
    assert len(scan_image_folder(plan.dataset.images).images) == IMAGES


def _run(plan: Plan) -> None:
    runner = PipelineRunner(plan)
    assert len(runner.extract(runner.load_dataset()).dataset.images) == IMAGES


def measure(function: Callable[[T], None], argument: T) -> tuple[float, float, float]:
    """Return CPU seconds, seconds and peak memory in MB of a call in a new process; its imports are not counted."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(function, argument, sender))
    process.start()
    sender.close()  # so that `recv` ends if the process fails
    result: tuple[float, float, float] = receiver.recv()
    process.join()
    return result


def _measure_here(function: Callable[[T], None], argument: T, sender: Connection) -> None:
    cpu, start = time.process_time(), time.perf_counter()
    function(argument)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sender.send((time.process_time() - cpu, time.perf_counter() - start, peak))

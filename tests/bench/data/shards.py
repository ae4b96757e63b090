"""The same images as files with text and JSON files beside them, and in tar shards: list, read, and update both."""

import io
import json
import os
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from rich.console import Console
from rich.table import Table

from data.config import DatasetConfig
from data.datasets import load_dataset
from data.images import FileHashCache, load_image
from data.images.hash_cache import MIN_AGE_NS
from tests.bench.data.folders import SIDE, measure
from tests.helpers.collection_forms import add_member

IMAGES, PER_SHARD = 100_000, 1_000


@dataclass(frozen=True)
class _Case:
    """A form of the collection, and where its hashes are."""

    images: Path
    workspace: Path


def shards(folder: Path) -> None:
    """100,000 drawn images of 64 pixels with a caption and two columns each: 100 tar shards, and the same as files."""
    measure_forms(folder, IMAGES)


def measure_forms(folder: Path, num_images: int) -> None:
    """Print CPU time, time and memory of each step for both forms."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    contents = _draw()
    cases = {name: _Case(folder / name, folder / f"{name}-run") for name in ("files", "shards")}
    for first in range(0, num_images, PER_SHARD):
        _write(cases, first, contents, "a")
    table = Table("step", "form", "CPU ms per image", "seconds", "peak memory, MB", title=f"{num_images:,} images")
    time.sleep(2 * MIN_AGE_NS / 1e9)  # files that changed in these seconds are not cached
    for step, function in (
        ("first: list, captions, hash", _load),
        ("decode all", _decode),
        ("second: unchanged", _load),
        (f"update: {PER_SHARD:,} images changed", _load),
    ):
        if step.startswith("update"):
            _write(cases, 0, contents, "b")
            time.sleep(2 * MIN_AGE_NS / 1e9)
        for name, case in cases.items():
            case.workspace.mkdir(exist_ok=True)
            cpu_seconds, seconds, megabytes = measure(function, case)
            numbers = (f"{1000 * cpu_seconds / num_images:.3f}", f"{seconds:.1f}", f"{megabytes:,.0f}")
            table.add_row(step, name, *numbers)
    Console(width=120).print(table)


def _draw() -> list[bytes]:
    rng, contents = np.random.default_rng(0), []
    for _ in range(PER_SHARD):
        buffer = io.BytesIO()
        picture = Picture.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 255, 3).tolist()))
        picture.paste(tuple(rng.integers(0, 255, 3).tolist()), (*rng.integers(0, 32, 2), *rng.integers(32, 64, 2)))
        picture.save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    return contents


def _write(cases: dict[str, _Case], first: int, contents: list[bytes], letter: str) -> None:
    """Write one shard, and the same as files. Bytes after the end of a JPEG make each content another one."""
    shard = f"{first // PER_SHARD:05d}"
    folder = cases["files"].images / shard
    folder.mkdir(parents=True, exist_ok=True)
    cases["shards"].images.mkdir(parents=True, exist_ok=True)
    with tarfile.open(cases["shards"].images / f"{shard}.tar", "w") as archive:
        for number, content in enumerate(contents, first):
            fields = json.dumps({"likes": number, "taken": f"2024-{1 + number % 12:02d}-01"}).encode()
            members = {
                "jpg": content + f"{letter}{number}".encode(),
                "txt": f"Caption {number}.".encode(),
                "json": fields,
            }
            for suffix, data in members.items():
                add_member(archive, f"{number:06d}.{suffix}", data)
                (folder / f"{number:06d}.{suffix}").write_bytes(data)


def _load(case: _Case) -> None:
    cache = FileHashCache(case.workspace)
    dataset = load_dataset(DatasetConfig(name="many", images=case.images), cache.get_hashes)
    assert len(dataset.captions) == len(dataset.images)
    assert not dataset.invalid_records


def _decode(case: _Case) -> None:
    for image in load_dataset(
        DatasetConfig(name="many", images=case.images), FileHashCache(case.workspace).get_hashes
    ).images:
        load_image(image.path)

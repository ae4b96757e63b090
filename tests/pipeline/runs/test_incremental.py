"""A second run extracts only new and changed items, and opens no file of the others."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.config import DatasetConfig, RegionFileConfig
from data.datasets.records import Dataset, Image
from data.exchange.region_file import RegionFile
from data.images import hash_cache as content
from data.images.hash_cache import MIN_AGE_NS, FileHashCache
from data.io.digests import sha256_file
from data.store.store import Store
from pipeline.plans.plan import Plan
from pipeline.stages.dataset import load_plan_dataset
from pipeline.stages.extract import extract_regions
from pipeline.workspace import Workspace

pytestmark = pytest.mark.slow

NAMES = [f"{i:04}.jpg" for i in range(1050)]
OPENED: list[str] = []
WATCHED: list[str] = []


def _watch(event, args) -> None:
    if WATCHED and event == "open" and str(args[0]).startswith(WATCHED[0]):
        OPENED.append(str(args[0]))


sys.addaudithook(_watch)  # a hook cannot be removed; without WATCHED it does nothing


@pytest.fixture
def opened(tmp_path):
    """Images that this process opened, recorded by an audit hook."""
    OPENED.clear()
    WATCHED[:] = [str(tmp_path / "photos")]
    yield OPENED
    WATCHED.clear()


@pytest.fixture
def later(monkeypatch):
    """Set the clock of the cache an hour ahead, so that files written by a test are old enough to be cached."""
    real = content.time.time_ns
    monkeypatch.setattr(FileHashCache.__init__, "__defaults__", (lambda: real() + 3600 * 10**9,))


def make_file(path: Path, names: Sequence[str] = NAMES) -> RegionFileConfig:
    """Write a region file for all images, in place of an extractor with a network."""
    rng, rows = np.random.default_rng(0), 2 * len(names)
    arrays = {"offset": np.arange(0, rows + 1, 2), "size": np.full((len(names), 2), 64), "boxes": np.ones((rows, 4))}
    features = rng.normal(size=(rows, 4)).astype("f2")
    np.savez(path, filename=names, **arrays, score=np.ones(rows), cls=np.zeros(rows, int), f=features)
    return RegionFileConfig(path=path, feature_arrays=("f",))


def test_only_new_and_changed_images_are_opened_and_extracted(tmp_path, opened, later, monkeypatch):
    photos, extracted, real = tmp_path / "photos", [], RegionFile._get_fields
    photos.mkdir()
    for name in NAMES:
        (photos / name).write_bytes(name.encode() * 30)
    monkeypatch.setattr(RegionFile, "_get_fields", lambda self, name: extracted.append(name) or real(self, name))
    config = make_file(tmp_path / "regions.npz")

    def run(names) -> tuple[list[str], list[str]]:
        """Return the names of the images that were extracted, and of those that were opened."""
        extracted.clear()
        opened.clear()
        images = tuple(Image(name, photos / name, "train") for name in names)
        folder = extract_regions(config, Dataset("photos", photos, images, ()), Workspace(tmp_path / "run"), 100)
        cost = list(extracted), [Path(path).name for path in opened]
        with Store(folder) as store:
            assert sorted(store.ids) == sorted(names), "the store has exactly the images of the dataset"
            assert store.content_hashes(names) == [sha256_file(photos / name) for name in names]
        return cost

    assert run(NAMES[:1000]) == (NAMES[:1000], NAMES[:1000])
    assert run(NAMES[:1000]) == ([], []), "without changes nothing is opened or extracted"
    assert run(NAMES) == (NAMES[1000:], NAMES[1000:])
    (photos / NAMES[7]).write_bytes(b"changed")
    assert run(NAMES) == ([NAMES[7]], [NAMES[7]])
    assert run(NAMES[10:]) == ([], [])
    assert run(NAMES) == ([], []), "images that return are neither hashed nor extracted"


def test_second_run_of_a_folder_tree_opens_no_image(tmp_path, opened, later):
    """The draw of the splits and the extraction need the hash of each file, which is read once in all."""
    photos = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (photos / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (photos / str(number % 7) / name).write_bytes(name.encode() * 30)
    config = make_file(tmp_path / "regions.npz", [f"{number % 7}/{name}" for number, name in enumerate(NAMES)])
    plan = Plan(workspace=tmp_path / "run", dataset=DatasetConfig(name="photos", images=photos), regions_file=config)

    def run() -> list[str]:
        """Return the names of the images that were opened."""
        opened.clear()
        dataset = load_plan_dataset(plan)
        with Store(extract_regions(config, dataset, Workspace(plan.workspace), 100)) as store:
            assert sorted(store.ids) == sorted(image.id for image in dataset.images)
            assert len(store) == len(NAMES)
        return sorted(Path(path).name for path in opened if Path(path).is_file())

    assert run() == NAMES
    assert run() == []


def hashes(folder: Path, path: Path, ahead: int = 0) -> str:
    now = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    return FileHashCache(folder, clock=lambda: now + ahead).get_hashes([path])[0]


def test_change_within_the_same_clock_tick_is_detected(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    stat = path.stat()
    first = hashes(tmp_path, path)
    with open(path, "r+b") as file:  # same inode, same size
        file.write(b"two")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert hashes(tmp_path, path) != first
    assert not (tmp_path / "hashes.json").exists(), "a file that was just written is not cached"
    assert hashes(tmp_path, path, MIN_AGE_NS + 1) == sha256_file(path)
    assert len(json.loads((tmp_path / "hashes.json").read_text())["files"]) == 1


CHANGES = {
    "content": lambda path: path.write_bytes(b"three"),
    "size, with the old time": lambda path: _keep_time(path, lambda: path.write_bytes(b"longer than before")),
    "content, with the old time": lambda path: _keep_time(path, lambda: path.write_bytes(b"TWO")),
    "another file of this name": lambda path: _keep_time(path, lambda: _replace(path, b"new")),
}


def _keep_time(path: Path, change) -> None:
    stat = path.stat()
    change()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_in_the_cache_is_hashed_again(tmp_path, change):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    assert hashes(tmp_path, path, MIN_AGE_NS + 1) == sha256_file(path)
    CHANGES[change](path)
    assert hashes(tmp_path, path, MIN_AGE_NS + 1) == sha256_file(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 9, "files": {}}', '{"version": 1, "files": [1]}', "\x00",
     '{"version": 1, "files": {"A": [1, 2, 3, 4, "short"], "B": 5}}',
     '{"version":2,"files":{\n"A":"1 2 3 4 short"\n,"B":5\n}}\n', '{"version":2,"files":{\n"A"\n}}\n',
     '{"version":2,"files":{\n"A":"1 2 3 4 ' + "0" * 64 + '"\n', '{"version":2,"files":{\né\n}}\n'],
)  # fmt: skip
def test_damaged_cache_file_is_replaced(tmp_path, text):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    (tmp_path / "hashes.json").write_text(text)
    assert hashes(tmp_path, path, MIN_AGE_NS + 1) == sha256_file(path)
    assert list(json.loads((tmp_path / "hashes.json").read_text())["files"]) == [str(path)]


def test_unreadable_file_is_reported_and_not_cached(tmp_path):
    found = FileHashCache(tmp_path).get_hashes([tmp_path / "gone.jpg", tmp_path])
    assert found == ["unreadable: No such file or directory", "unreadable: Is a directory"]
    assert not (tmp_path / "hashes.json").exists()

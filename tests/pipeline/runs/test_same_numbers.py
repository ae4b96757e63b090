"""The same input gives the same bits in every stage: with any number of workers and threads, killed or not, new or not.

The oracle is a run in this process that is not interrupted, with other threads than those of a worker process.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from data.store import Store
from index.search import Index
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.stages.results import Features, Vectors
from pipeline.workers import make_process_map
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow


SETTINGS = (
    "train.epochs=1",
    "images_per_shard=4",
    "captions_per_shard=30",
    "demo={images = 18, splits = {train = 12, val = 3, test = 3}}",
)


class KilledError(Exception):
    """Takes the place of a signal."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(previous)


def make_runner(folder: Path, workspace: str, workers: int = 1, **settings: Any) -> PipelineRunner:
    plan = load_plan(str(small_plan(folder, workspace, workers)), SETTINGS)
    return PipelineRunner(plan, lambda stage: make_process_map(workers, stage), **settings)


def kill_after(count: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]:
    """Return a map function that dies after some jobs."""

    def map_fn(function: Callable[[Any], Any], jobs: Iterable[Any]) -> list[Any]:
        for number, job in enumerate(jobs):
            if number == count:
                raise KilledError
            function(job)
        return []

    return map_fn


def hash_store(folder: Path) -> dict[str, str]:
    """SHA-256 of the values of each item in each column, by `id column`."""
    store = Store(folder)
    return {
        f"{name} {field}": hashlib.sha256(store.read(field, [name]).tobytes()).hexdigest()
        for name in sorted(store.ids)
        for field in store.fields
    }


def hash_numbers(vectors: Vectors, index: Path) -> dict[str, Any]:
    """Hashes of everything that the stages wrote; the index by its objects, which are named by content."""
    features = vectors.features
    stores = {"regions": features.regions, "tokens": features.tokens}
    stores |= {"images": vectors.images, "captions": vectors.captions}
    manifest = Index.open(index.parents[1]).manifest
    return {
        **{name: (folder.name, hash_store(folder)) for name, folder in stores.items()},
        "model": (vectors.model.name, hashlib.sha256((vectors.model / "best.safetensors").read_bytes()).hexdigest()),
        "index": {kind: collection.model_dump_json() for kind, collection in manifest.collections.items()},
    }


def run(runner: PipelineRunner) -> dict[str, Any]:
    features = runner.extract(runner.load_dataset())
    vectors = runner.embed(features, runner.train(features))
    return hash_numbers(vectors, runner.publish_index(vectors))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Numbers of a run in this process, with three threads."""
    with threads(3):
        return run(make_runner(tmp_path_factory.mktemp("whole"), "run"))


@pytest.mark.parametrize(("workers", "num_threads"), [(1, 1), (3, 2)])
def test_all_stages_give_the_same_bits_with_any_number_of_workers_and_threads(
    workers: int, num_threads: int, tmp_path: Path, expected: dict[str, Any]
) -> None:
    with threads(num_threads):
        assert run(make_runner(tmp_path, "run", workers)) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_all_stages_give_the_same_bits_after_a_kill_in_each_of_them(
    workers: int, tmp_path: Path, expected: dict[str, Any]
) -> None:
    for stage, done in (("region features", 3), ("token features", 1), ("embedding", 1)):
        runner = make_runner(tmp_path, "run", workers)
        whole = runner._make_map_fn
        runner._make_map_fn = lambda name, stage=stage, done=done, whole=whole: (
            kill_after(done) if name == stage else whole(name)
        )
        with threads(2), pytest.raises(KilledError):
            run(runner)
    assert run(make_runner(tmp_path, "run", workers)) == expected


def test_items_that_are_added_later_have_the_same_bits(tmp_path: Path, expected: dict[str, Any]) -> None:
    """The test split comes later, and then one image of it is new: the update computes batches of other items."""

    def embed(runner: PipelineRunner, features: Features) -> Vectors:
        return runner.embed(features, runner.train(features))

    runner = make_runner(tmp_path, "run", 2)
    first = embed(runner, runner.extract(runner.load_dataset(("train", "val"))))
    runner.publish_index(first)
    runner = make_runner(tmp_path, "run")
    with threads(2):
        vectors = embed(runner, runner.extract(runner.load_dataset()))
        numbers = hash_numbers(vectors, runner.update_index(vectors))
    with Index.open(tmp_path / "run" / "index") as index:
        assert {shard.role for c in index.manifest.collections.values() for shard in c.shards} == {"base", "delta"}
        for kind, folder in (("image", vectors.images), ("caption", vectors.captions)):
            store = Store(folder)
            hits = index.search(store.read("features", store.ids).astype("float32"), 1, kind)
            assert len(hits) == len(store)
    del numbers["index"]
    assert numbers == {key: value for key, value in expected.items() if key != "index"}

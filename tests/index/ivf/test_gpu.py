"""A GPU does the same work, and a failing one costs nothing but time. A stand-in of faiss's on the CPU takes its place:
no test here has run on a real one."""

import json
from collections import Counter
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.building.build import build_index
from index.config import IndexConfig
from index.ivf.gpu import gpu_resources, knn
from index.search.index import Index
from index.versions.folder import manifest_path
from tests.helpers.index_world import make


@pytest.fixture(autouse=True)
def afresh():
    gpu_resources.cache_clear()
    yield
    gpu_resources.cache_clear()


class Failing:
    """An index on a GPU that runs out of memory when it is used."""

    def search(self, vectors, k):
        raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nat somewhere")


@pytest.fixture
def used(monkeypatch) -> Counter:
    """A wheel with a GPU, and what was asked of it."""
    asked: Counter = Counter()

    def to_gpu(gpu, number, index):
        asked["copied"] += 1
        return faiss.clone_index(index)

    def knn_gpu(gpu, queries, vectors, k, metric):
        asked["neighbors"] += 1
        return faiss.knn(queries, vectors, k, metric)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    return asked


def built(root: Path, factory: str) -> dict:
    """The collections of a version's manifest: the hashes of all that was made."""
    build_index(IndexConfig(nlist=8, shards=2, factory=factory), *make(1, images=200), root)
    return json.loads(manifest_path(root, 1).read_text())["collections"]


FACTORIES = [
    "auto",
    "IVF{nlist},SQ8",
    "IVF{nlist},RaBitQ",
    "IVF{nlist},PQ6x4np",  # np: the ordering of centroids for polysemous codes takes seconds
    "IVF{nlist},PQ6x4fs",
    "IVF{nlist},RaBitQfs",
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_with_a_gpu_the_bytes_are_those_of_the_same_work_on_the_cpu(factory, used, monkeypatch, tmp_path):
    with_one = built(tmp_path / "gpu", factory)
    assert used["neighbors"] > 0
    assert used["copied"] >= 2
    monkeypatch.setenv("TERN_INDEX_DEVICE", "cpu")
    gpu_resources.cache_clear()
    used.clear()
    assert built(tmp_path / "cpu", factory) == with_one
    assert not used, "it was to be left alone"


def out_of_memory(*arguments, **named):
    raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nat somewhere")


@pytest.mark.parametrize("fails", ["index_cpu_to_gpu", "knn_gpu", "search"])
def test_a_gpu_that_fails_is_logged_and_the_cpu_does_the_work(fails, used, monkeypatch, tmp_path, caplog):
    expected = built(tmp_path / "good", "IVF{nlist},SQ8")
    if fails == "search":
        plain = faiss.index_cpu_to_gpu
        monkeypatch.setattr(
            faiss, "index_cpu_to_gpu", lambda gpu, i, index: plain(gpu, i, index) if not index.ntotal else Failing()
        )
    else:
        monkeypatch.setattr(faiss, fails, out_of_memory)
    assert built(tmp_path / "bad", "IVF{nlist},SQ8") == expected
    assert "by the CPU, for the GPU failed: Error: 'err == cudaSuccess' failed: out of memory" in caplog.text
    with Index.open(tmp_path / "bad") as index:
        assert index.search(make(1, images=200)[1]["image"][:1], 3)[0]


def test_no_gpu_is_no_news(monkeypatch):
    assert gpu_resources() is None, "the CPU's wheel"
    queries = np.eye(4, dtype=np.float32)
    assert knn(queries, queries, 1)[1].ravel().tolist() == [0, 1, 2, 3]
    gpu_resources.cache_clear()
    monkeypatch.setenv("TERN_INDEX_DEVICE", "tpu")
    with pytest.raises(ValueError, match="TERN_INDEX_DEVICE is 'tpu'; it must be 'auto' or 'cpu'"):
        gpu_resources()

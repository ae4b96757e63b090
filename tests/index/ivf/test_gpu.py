"""Index files are the same with and without a GPU, and if the GPU fails. FAISS on the CPU stands in for the GPU.

These tests have not been run on a GPU.
"""

import json
from collections import Counter
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.building.build import build_index
from index.collection import IndexInputs
from index.config import IndexConfig
from index.ivf.gpu import gpu_resources, knn
from index.search.index import Index
from index.versions.folder import manifest_path
from tests.helpers.index_world import make


@pytest.fixture(autouse=True)
def clear_gpu_resources():
    gpu_resources.cache_clear()
    yield
    gpu_resources.cache_clear()


class FailingIndex:
    """An index on a GPU that runs out of memory when it is searched."""

    def search(self, vectors, k):
        raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nat somewhere")


@pytest.fixture
def gpu_calls(monkeypatch) -> Counter:
    """The number of calls of a FAISS wheel with a GPU."""
    calls: Counter = Counter()

    def to_gpu(gpu, number, index):
        calls["copied"] += 1
        return faiss.clone_index(index)

    def knn_gpu(gpu, queries, vectors, k, metric):
        calls["neighbors"] += 1
        return faiss.knn(queries, vectors, k, metric)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    return calls


def build(root: Path, factory: str) -> dict:
    """Build an index; return the collections of its manifest, which contain all hashes."""
    build_index(IndexConfig(nlist=8, shards=2, factory=factory), IndexInputs(*make(1, images=200)), root)
    return json.loads(manifest_path(root, 1).read_text())["collections"]


FACTORIES = [
    "auto",
    "IVF{nlist},SQ8",
    "IVF{nlist},RaBitQ",
    "IVF{nlist},PQ6x4np",  # np: no ordering of centroids for polysemous codes, which takes seconds
    "IVF{nlist},PQ6x4fs",
    "IVF{nlist},RaBitQfs",
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_gpu_gives_bytes_of_cpu(factory, gpu_calls, monkeypatch, tmp_path):
    on_gpu = build(tmp_path / "gpu", factory)
    assert gpu_calls["neighbors"] > 0
    assert gpu_calls["copied"] >= 2
    monkeypatch.setenv("TERN_INDEX_DEVICE", "cpu")
    gpu_resources.cache_clear()
    gpu_calls.clear()
    assert build(tmp_path / "cpu", factory) == on_gpu
    assert not gpu_calls, "TERN_INDEX_DEVICE=cpu disables it"


def fail_with_out_of_memory(*arguments, **options):
    raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nat somewhere")


@pytest.mark.parametrize("fails", ["index_cpu_to_gpu", "knn_gpu", "search"])
def test_failing_gpu_is_logged_and_replaced_by_cpu(fails, gpu_calls, monkeypatch, tmp_path, caplog):
    expected = build(tmp_path / "good", "IVF{nlist},SQ8")
    if fails == "search":
        copy_to_gpu = faiss.index_cpu_to_gpu

        def copy_or_fail(gpu, number, index):
            return FailingIndex() if index.ntotal else copy_to_gpu(gpu, number, index)

        monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy_or_fail)
    else:
        monkeypatch.setattr(faiss, fails, fail_with_out_of_memory)
    assert build(tmp_path / "bad", "IVF{nlist},SQ8") == expected
    assert "because the GPU failed: Error: 'err == cudaSuccess' failed: out of memory" in caplog.text
    with Index.open(tmp_path / "bad") as index:
        assert index.search(make(1, images=200)[1]["image"][:1], 3)[0]


def test_without_gpu_the_cpu_is_used(monkeypatch):
    assert gpu_resources() is None, "the wheel without GPU support"
    queries = np.eye(4, dtype=np.float32)
    assert knn(queries, queries, 1)[1].ravel().tolist() == [0, 1, 2, 3]
    gpu_resources.cache_clear()
    monkeypatch.setenv("TERN_INDEX_DEVICE", "tpu")
    with pytest.raises(ValueError, match="TERN_INDEX_DEVICE is 'tpu'; it must be 'auto' or 'cpu'"):
        gpu_resources()

"""A GPU, where the faiss wheel has one, for k-means, assignment to lists and true neighbors.

Only centroids, lists and scores come back from it; codes and files are made by the CPU, so a published index is of one
format. TERN_INDEX_DEVICE=cpu leaves a GPU alone. What fails on it (no memory, an index that it does not know) is
logged, and done by the CPU.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import faiss
import numpy as np

from data.settings import read_settings
from index.ivf.distance import METRIC

log = logging.getLogger(__name__)
MAX_GPU_K = 2048  # neighbors that a GPU gives without cuVS


@lru_cache(maxsize=1)
def gpu_resources() -> object | None:
    """faiss's handle of the GPUs; None if there is none, or it is to be left alone.

    Raises ValueError if TERN_INDEX_DEVICE is not valid.
    """
    if read_settings().index_device == "cpu" or not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.StandardGpuResources()


def knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner products (q, k) float32, highest first, and places (q, k) int64 of the best of (n, d) float32 vectors."""
    if (gpu := gpu_resources()) is not None and k <= MAX_GPU_K:
        try:
            return faiss.knn_gpu(gpu, queries, vectors, k, metric=METRIC)
        except RuntimeError as error:
            _told("true neighbors", error)
    return faiss.knn(queries, vectors, k, METRIC)


def top_k_scores(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """(q, k) float32: those of `knn`, in any order. On a CPU one product and a partition take half of its time."""
    if gpu_resources() is not None:
        return knn(queries, vectors, k)[0]
    scores = np.ascontiguousarray((vectors @ queries.T).T)  # (q, n): a third quicker than queries @ vectors.T
    return np.partition(scores, len(vectors) - k, axis=1)[:, len(vectors) - k :]


def train_ivf_on_device(index: faiss.IndexIVF, sample: np.ndarray) -> None:
    """`index.train(sample)`, its k-means on a GPU, with the same settings."""
    helper = _on_gpu(faiss.IndexFlat(index.d, METRIC), "k-means")
    if helper is not None:
        index.clustering_index = helper
        try:
            index.train(sample)
            return
        except RuntimeError as error:
            _told("k-means", error)
            index.quantizer.reset()
        finally:
            index.clustering_index = None
    index.train(sample)


def make_add_fn(index: faiss.IndexIVF) -> Callable[[np.ndarray, np.ndarray], None]:
    """`index.add_with_ids`, for codes that can be told their lists with the nearest centroids found on a GPU."""
    told = not isinstance(index, faiss.IndexIVFFastScan) and not isinstance(index, faiss.IndexIVFRaBitQFastScan)
    quantizer = _on_gpu(index.quantizer, "assignment to lists") if told else None
    if quantizer is None:
        return index.add_with_ids
    pointer = faiss.swig_ptr

    def add(vectors: np.ndarray, keys: np.ndarray) -> None:
        vectors, keys = np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(keys, np.int64)
        try:
            lists = np.ascontiguousarray(quantizer.search(vectors, 1)[1])  # (n, 1)
        except RuntimeError as error:
            _told("assignment to lists", error)
            index.add_with_ids(vectors, keys)
            return
        index.add_core(len(vectors), pointer(vectors), pointer(keys), pointer(lists))

    return add


def _on_gpu(index: faiss.Index, what: str) -> faiss.Index | None:
    """A copy on the first GPU, if there is one that takes it."""
    if (gpu := gpu_resources()) is None:
        return None
    try:
        return faiss.index_cpu_to_gpu(gpu, 0, index)
    except RuntimeError as error:
        _told(what, error)
        return None


def _told(what: str, error: RuntimeError) -> None:
    log.warning("%s by the CPU, for the GPU failed: %s", what, str(error).splitlines()[0])

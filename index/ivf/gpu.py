"""Optional GPU use of FAISS, for k-means, assignment to lists and exact neighbors.

Only centroids, lists and scores are computed on the GPU; codes and files are written on the CPU, so the format does not
depend on the device. TERN_INDEX_DEVICE=cpu disables it. Any failure on the GPU is logged and repeated on the CPU.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import faiss
import numpy as np

from data.settings import read_settings
from index.ivf.distance import METRIC

log = logging.getLogger(__name__)
MAX_GPU_K = 2048  # maximum number of neighbors on a GPU without cuVS


@lru_cache(maxsize=1)
def gpu_resources() -> object | None:
    """Return FAISS's GPU resources; None without a GPU or with TERN_INDEX_DEVICE=cpu.

    Raises:
        ValueError: TERN_INDEX_DEVICE is neither auto nor cpu.
    """
    if read_settings().index_device == "cpu" or not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.StandardGpuResources()


def knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best of (n, d) float32 vectors for each of (q, d) float32 queries.

    Returns:
        Inner products (q, k) float32, highest first, and positions (q, k) int64.
    """
    if (gpu := gpu_resources()) is not None and k <= MAX_GPU_K:
        try:
            return faiss.knn_gpu(gpu, queries, vectors, k, metric=METRIC)
        except RuntimeError as error:
            _log_fallback("exact neighbors", error)
    return faiss.knn(queries, vectors, k, METRIC)


def top_k_scores(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the (q, k) float32 scores of `knn`, in any order.

    On a CPU one matrix product and a partition take half of the time of `knn`.
    """
    if gpu_resources() is not None:
        return knn(queries, vectors, k)[0]
    scores = np.ascontiguousarray((vectors @ queries.T).T)  # (q, n): a third faster than queries @ vectors.T
    return np.partition(scores, len(vectors) - k, axis=1)[:, len(vectors) - k :]


def train_ivf_on_device(index: faiss.IndexIVF, sample: np.ndarray) -> None:
    """Run `index.train(sample)`, with k-means on the GPU if there is one, with the same settings."""
    gpu_index = _copy_to_gpu(faiss.IndexFlat(index.d, METRIC), "k-means")
    if gpu_index is not None:
        index.clustering_index = gpu_index
        try:
            index.train(sample)
            return
        except RuntimeError as error:
            _log_fallback("k-means", error)
            index.quantizer.reset()
        finally:
            index.clustering_index = None
    index.train(sample)


def make_add_fn(index: faiss.IndexIVF) -> Callable[[np.ndarray, np.ndarray], None]:
    """Return `index.add_with_ids`, or a function that assigns rows to lists on the GPU.

    It is the latter if the codes allow it.
    """
    is_fast_scan = isinstance(index, (faiss.IndexIVFFastScan, faiss.IndexIVFRaBitQFastScan))
    quantizer = None if is_fast_scan else _copy_to_gpu(index.quantizer, "assignment to lists")
    if quantizer is None:
        return index.add_with_ids
    pointer = faiss.swig_ptr

    def add(vectors: np.ndarray, keys: np.ndarray) -> None:
        vectors, keys = np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(keys, np.int64)
        try:
            lists = np.ascontiguousarray(quantizer.search(vectors, 1)[1])  # (n, 1)
        except RuntimeError as error:
            _log_fallback("assignment to lists", error)
            index.add_with_ids(vectors, keys)
            return
        index.add_core(len(vectors), pointer(vectors), pointer(keys), pointer(lists))

    return add


def _copy_to_gpu(index: faiss.Index, task: str) -> faiss.Index | None:
    """Copy an index to the first GPU; None if there is no GPU or it does not accept the index."""
    if (gpu := gpu_resources()) is None:
        return None
    try:
        return faiss.index_cpu_to_gpu(gpu, 0, index)
    except RuntimeError as error:
        _log_fallback(task, error)
        return None


def _log_fallback(task: str, error: RuntimeError) -> None:
    log.warning("The CPU does the %s, because the GPU failed: %s", task, str(error).splitlines()[0])

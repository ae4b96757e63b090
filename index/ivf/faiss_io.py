"""How faiss's files are made: one trained coarse quantizer, any number of shards that hold inverted lists only."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np

from index.ivf.gpu import make_add_fn, train_ivf_on_device

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
# The choice of "auto" (docs/benchmarks.md): up to EXACT_ROWS all rows are compared, by float16 codes; below
# FAST_ROWS one byte a number, in lists, mapped; from there on four bits for four numbers, in memory, rescored.
EXACT_ROWS, FAST_ROWS = 50_000, 100_000
DEFAULT_RESCORE = 200  # rows of fast-scan codes rescored: a recall of 0.99 needs them
POINTS_PER_LIST = 39  # faiss warns when k-means has fewer training rows a centroid


def check_single_faiss_wheel() -> None:
    """Raise ImportError if two faiss wheels are installed: both own the module `faiss` and overwrite its files."""
    found = [name for name in WHEELS if _installed(name)]
    if len(found) > 1:
        raise ImportError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; "
            f"run `pip uninstall -y {' '.join(found)}`, then install one of them."
        )


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def choose_factory(factory: str, nlist: int | None, rows: int, dim: int) -> str:
    """The faiss factory string for `rows` vectors of `dim` numbers; "{nlist}" and "auto" are filled in.

    Lists: 4 sqrt(rows) after faiss's guideline, but at least 39 rows a list, rounded down to a power of two; for "auto"
    a single one up to `EXACT_ROWS`, which is exact search.
    """
    few = factory == "auto" and rows <= EXACT_ROWS
    if nlist is None:
        most = 1 if few else max(1, min(int(4 * rows**0.5), rows // POINTS_PER_LIST))
        nlist = 1 << (most.bit_length() - 1)
    if factory == "auto":
        factory = "IVF{nlist}," + ("SQfp16" if few else "SQ8" if rows < FAST_ROWS else _fast_scan(dim))
    return factory.replace("{nlist}", str(nlist))


def parse_nlist(factory: str) -> int:
    """How many lists a factory string names; 0 if it names none, which `train` refuses."""
    named = re.match(r"IVF(\d+)", factory)
    return int(named[1]) if named else 0


def _fast_scan(dim: int) -> str:
    """The cheapest code to search of those measured: PQ, or RaBitQ where a dimension has no quarter."""
    return "RaBitQfs" if dim % 4 else f"PQ{dim // 4}x4fs"


def choose_rescore(rescore: int | None, factory: str) -> int:
    """How many rows to rescore if that is left open: `DEPTH` for fast-scan codes, which alone miss too much."""
    return rescore if rescore is not None else DEFAULT_RESCORE * factory.split(",")[-1].endswith(("fs", "fsr"))


def train_ivf(factory: str, sample: np.ndarray, seed: int, centroids: np.ndarray | None = None) -> faiss.IndexIVF:
    """Train the empty index that every shard shares, on (n, d) float32 unit vectors, for inner products.

    `centroids` (nlist, d): trained before, for another code; None: found here by k-means.

    Raises ValueError if the factory string is not a plain inverted file, or asks for more lists than rows.
    """
    try:
        index = faiss.index_factory(sample.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"faiss does not take factory {factory!r}: {error}") from error
    if not isinstance(index, faiss.IndexIVF):
        raise ValueError(
            f"factory {factory!r} makes {type(index).__name__}, which cannot be sharded by lists; "
            "use a plain inverted file such as 'IVF{nlist},SQ8'."
        )
    if index.nlist > len(sample):
        raise ValueError(
            f"factory {factory!r} asks for {index.nlist} lists, but there are {len(sample)} rows; "
            "lower nlist or leave it out."
        )
    if isinstance(index, faiss.IndexIVFScalarQuantizer) and factory.endswith("SQfp16"):
        index.by_residual = False  # residuals would be rounded again; whole float16 vectors are kept as they came
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # `choose_factory` has its own rule; faiss would print to stderr
    if centroids is not None:
        index.quantizer.add(centroids)  # faiss trains no quantizer that is full
    train_ivf_on_device(index, sample)
    return index


def write_trained_index(index: faiss.IndexIVF, path: Path) -> None:
    """Write the trained, empty index: centroids and code parameters, once for all shards."""
    with _writing(path) as writer:
        faiss.write_index(index, writer)


def read_dim(template: Path) -> int:
    """Numbers a vector of a trained index."""
    return int(faiss.read_index(str(template)).d)


def write_inverted_lists(template: Path, path: Path, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Encode (keys (m,) int64, vectors (m, d) float32) blocks into one file of inverted lists; return the rows."""
    index = faiss.read_index(str(template))
    add = make_add_fn(index)  # with the IVF's own ids: IDMap2 returns removed ids (facebookresearch/faiss#4535)
    for keys, vectors in blocks:
        add(vectors, keys)
    with _writing(path) as writer:
        faiss.write_InvertedLists(index.invlists, writer)
    return int(index.ntotal)


@contextmanager
def _writing(path: Path) -> Iterator[faiss.PyCallbackIOWriter]:
    """A writer of faiss's into a file of Python's, whose errors are raised.

    faiss's own writer tells of an error while it closes on stderr alone: a full disk leaves a short file and no error.
    """
    failed: list[OSError] = []
    with open(path, "wb") as file:

        def write(block: bytes) -> int:
            try:
                return file.write(block)
            except OSError as error:
                failed.append(error)
                return 0

        try:
            yield faiss.PyCallbackIOWriter(write)
        except RuntimeError:
            if failed:
                raise failed[0] from None
            raise
        if failed:
            raise failed[0]


def compute_coarse_error(template: Path, vectors: np.ndarray) -> float:
    """Mean distance of (n, d) float32 unit vectors to their nearest centroids, rounded to 6 digits; 0 for none."""
    if not len(vectors):
        return 0.0
    head = faiss.read_index(str(template))
    _, nearest = head.quantizer.search(vectors, 1)
    centroids = head.quantizer.reconstruct_batch(nearest[:, 0])
    return round(float(np.linalg.norm(vectors - centroids, axis=1).mean(dtype=np.float64)), 6)

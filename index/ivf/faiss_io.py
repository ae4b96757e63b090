"""Train FAISS inverted files and write their parts: one trained index, and shard files with inverted lists only."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import faiss
import numpy as np

from index.config import EXACT_CODES
from index.ivf.distance import METRIC
from index.ivf.gpu import make_add_fn, train_ivf_on_device

FAISS_VERSION: str = faiss.__version__
TrainedIVF = faiss.IndexIVF
WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
# Limits of factory "auto" (docs/decisions/027 and 047): up to EXACT_ROWS rows exact search with float16 codes; up
# to ONE_LIST_ROWS rescored fast-scan codes of 2 bits per number, all in one list; above it 1 bit per number, in lists.
EXACT_ROWS, ONE_LIST_ROWS = 5_000, 50_000
MAX_ROWS_PER_LIST = 2_000  # of fast-scan codes: starting a list costs as much as scanning hundreds of its rows
POINTS_PER_LIST = 39  # FAISS warns if k-means has fewer training rows per centroid
EXACT_CODE = EXACT_CODES[0]


def check_single_faiss_wheel() -> None:
    """Raise ImportError if two FAISS wheels are installed: they overwrite each other's module `faiss`."""
    installed = [name for name in WHEELS if _is_installed(name)]
    if len(installed) > 1:
        raise ImportError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files. "
            f"Run `pip uninstall -y {' '.join(installed)}`, then install one of them."
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def choose_factory(factory: str, nlist: int | None, rows: int, dim: int) -> str:
    """Return the FAISS factory string for a number of vectors; "auto" and "{nlist}" are replaced.

    The number of lists is 4 sqrt(rows), after FAISS's guideline, with at least 39 rows per list, rounded down to a
    power of two. For "auto" it is 1 up to `ONE_LIST_ROWS`, then sqrt(rows), and one per `MAX_ROWS_PER_LIST` rows where
    that is more. A collection with fewer rows than the settings need for training, such as a few captions of many
    images, is searched exactly.

    Args:
        factory: "auto", or a factory string in which "{nlist}" may stand for the number of lists.
        nlist: Number of lists; None: by the rule above.
        rows: Number of vectors.
        dim: Numbers per vector.
    """
    is_auto = factory == "auto"
    if nlist is None:
        max_lists = min(int(4 * rows**0.5), rows // POINTS_PER_LIST)
        if is_auto:
            max_lists = 1 if rows <= ONE_LIST_ROWS else min(max_lists, max(int(rows**0.5), rows // MAX_ROWS_PER_LIST))
        nlist = 1 << (max(1, max_lists).bit_length() - 1)
    if is_auto:
        factory = "IVF{nlist}," + _choose_code(rows, dim)
    factory = factory.replace("{nlist}", str(nlist))
    return f"IVF1,{EXACT_CODE}" if rows < _count_training_rows(factory) else factory


def _count_training_rows(factory: str) -> int:
    """Return the number of rows that FAISS needs to train an IVF index: one per centroid of lists and of PQ codes."""
    code = re.search(r",PQ\d+(?:x(\d+))?", factory)
    return max(parse_nlist(factory), 2 ** int(code[1] or 8) if code else 1) if parse_nlist(factory) else 0


def parse_nlist(factory: str) -> int:
    """Return the number of lists in a factory string; 0 if it has none, which `train_ivf` does not accept."""
    match = re.match(r"IVF(\d+)", factory)
    return int(match[1]) if match else 0


def _choose_code(rows: int, dim: int) -> str:
    """Return the code of "auto": exact, or the one that was cheapest to search and rescore."""
    if rows <= EXACT_ROWS:
        return EXACT_CODE
    numbers_per_code = 2 if rows <= ONE_LIST_ROWS else 4
    return "RaBitQfs" if dim % numbers_per_code else f"PQ{dim // numbers_per_code}x4fs"


def is_fast_scan(factory: str) -> bool:
    """Return whether a factory string has fast-scan codes, whose best rows must be rescored."""
    return factory.split(",")[-1].endswith(("fs", "fsr"))


def train_ivf(factory: str, sample: np.ndarray, seed: int, centroids: np.ndarray | None = None) -> faiss.IndexIVF:
    """Train the empty index that all shards share, for inner products.

    Args:
        sample: (n, d) float32 unit vectors.
        centroids: (nlist, d) centroids trained before, for another code; None: computed by k-means.

    Raises:
        ValueError: The factory string is not an IVF index, or has more lists than the sample has rows.
    """
    try:
        index = faiss.index_factory(sample.shape[1], factory, METRIC)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS does not accept factory {factory!r}: {error}. Set `index.factory` to an IVF index such as "
            "'IVF{nlist},SQ8'."
        ) from error
    if not isinstance(index, faiss.IndexIVF):
        raise ValueError(
            f"Factory {factory!r} creates {type(index).__name__}, which cannot be sharded by lists. "
            "Use an IVF index such as 'IVF{nlist},SQ8'."
        )
    if index.nlist > len(sample):
        raise ValueError(
            f"Factory {factory!r} has {index.nlist} lists, but there are {len(sample)} rows. Lower nlist or remove it."
        )
    if isinstance(index, faiss.IndexIVFScalarQuantizer) and factory.endswith("SQfp16"):
        index.by_residual = False  # residuals would be rounded again; this stores the float16 vectors unchanged
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # `choose_factory` has its own limit; FAISS would print to stderr
    if centroids is not None:
        index.quantizer.add(centroids)  # FAISS does not train a quantizer that is full
    train_ivf_on_device(index, sample)
    return index


def write_trained_index(index: faiss.IndexIVF, path: Path) -> None:
    """Write the trained, empty index: centroids and code parameters, once for all shards."""
    with _open_writer(path) as writer:
        faiss.write_index(index, writer)


def read_trained_index(path: Path) -> faiss.IndexIVF:
    """Read a trained, empty index."""
    return faiss.read_index(str(path))


def read_dim(trained_index: Path) -> int:
    """Return the dimension of the vectors of a trained index."""
    return int(read_trained_index(trained_index).d)


def write_inverted_lists(trained_index: Path, path: Path, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Encode blocks of (m,) int64 keys and (m, d) float32 vectors into one file of inverted lists.

    Args:
        trained_index: File with the trained, empty index.
        path: File to write.
        blocks: Keys and vectors; no key occurs twice.

    Returns:
        The number of rows.
    """
    index = read_trained_index(trained_index)
    add = make_add_fn(index)  # with the ids of the IVF: IDMap2 returns removed ids (facebookresearch/faiss#4535)
    for keys, vectors in blocks:
        add(vectors, keys)
    with _open_writer(path) as writer:
        faiss.write_InvertedLists(index.invlists, writer)
    return int(index.ntotal)


@contextmanager
def _open_writer(path: Path) -> Iterator[faiss.PyCallbackIOWriter]:
    """Open a file for FAISS that raises write errors.

    FAISS's own writer only prints errors of closing to stderr: a full disk would leave a short file and no error.
    """
    errors: list[OSError] = []
    with open(path, "wb") as file:

        def write(block: bytes) -> int:
            try:
                return file.write(block)
            except OSError as error:
                errors.append(error)
                return 0

        try:
            yield faiss.PyCallbackIOWriter(write)
        except RuntimeError:
            if errors:
                raise errors[0] from None
            raise
        if errors:
            raise errors[0]


def compute_coarse_error(trained_index: Path, vectors: np.ndarray) -> float:
    """Return the mean distance of (n, d) float32 unit vectors to their nearest centroids.

    It has 6 digits, and is 0 for n = 0.
    """
    if not len(vectors):
        return 0.0
    index = read_trained_index(trained_index)
    _, nearest = index.quantizer.search(vectors, 1)
    centroids = index.quantizer.reconstruct_batch(nearest[:, 0])
    return round(float(np.linalg.norm(vectors - centroids, axis=1).mean(dtype=np.float64)), 6)

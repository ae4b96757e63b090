"""`tern index tune`: measures index settings on the vectors of a plan and recommends one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.datasets import Dataset
from data.store import Store
from index.config import check_kind
from index.tuning import OperatingPoint, TuningLimits, choose_point, measure_candidates
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores

MAX_SAMPLE_ROWS = 50_000
MAX_QUERIES = 2_000  # of each kind
QUERY_KINDS = {"image": ("text", "image"), "caption": ("image", "text")}
"""Kinds of queries that search a collection; the first one decides the recommended settings."""


@dataclass(frozen=True)
class TuningAdvice:
    """Measured operating points of one collection, and the recommended ones."""

    kind: str
    """Collection that was searched: `image` or `caption`."""
    num_sampled: int
    """Number of rows in the sample that was measured."""
    num_rows: int
    """Number of rows in the collection."""
    points: list[OperatingPoint]
    chosen: dict[str, OperatingPoint]
    """Recommended operating point by kind of query."""

    @property
    def settings(self) -> list[str]:
        """Recommended settings of the index, each `KEY=VALUE` for `--set`.

        The number of lists grows in proportion to the rows. `nprobe` is not among the settings: the build measures it.
        """
        best = self.chosen[QUERY_KINDS[self.kind][0]]
        nlist = 1 if best.nlist == 1 else best.nlist * round(self.num_rows / self.num_sampled)
        code = best.factory.split(",")[1]
        return [f"index.factory=IVF{{nlist}},{code}", f"index.nlist={nlist}", f"index.rescore={best.rescore}"]


def advise_index_settings(
    kind: str, limits: TuningLimits, vectors: VectorStores, dataset: Dataset, seed: int = 0
) -> TuningAdvice:
    """Measure index settings on a random sample of a collection.

    The queries are the held-out captions and images; none of them is in the sample.

    Args:
        kind: Collection to search: `image` or `caption`.
        limits: Limits that the recommended settings must keep.
        vectors: Vector stores.
        dataset: Valid dataset.
        seed: Seed of the random sample.

    Raises:
        ValueError: The kind is unknown, no held-out split has captions, there are too few items, or no measured
            setting keeps the limits.
    """
    check_kind(kind)
    splits = splits_with_captions(dataset, HELD_OUT)
    if not splits:
        raise ValueError(
            f"No split of {', '.join(HELD_OUT)} has captions, but queries must not be vectors of the index. "
            "Assign some images with captions to val or test."
        )
    stores = {"image": Store(vectors.images), "caption": Store(vectors.captions)}
    ids_by_split = [held_out_ids(dataset, stores["image"], stores["caption"], split) for split in splits]
    query_ids = {
        "image": [image_id for image_ids, _, _ in ids_by_split for image_id in image_ids],
        "text": [caption_id for _, caption_ids, _ in ids_by_split for caption_id in caption_ids],
    }
    held_out = set(query_ids["image" if kind == "image" else "text"])
    indexed_ids = sorted(name for name in stores[kind].ids if name not in held_out)
    queries = {
        query_kind: _sample_vectors(
            stores["caption" if query_kind == "text" else "image"], query_ids[query_kind], MAX_QUERIES, seed
        )
        for query_kind in QUERY_KINDS[kind]
    }
    sample = _sample_vectors(stores[kind], indexed_ids, MAX_SAMPLE_ROWS, seed)
    num_rows = len(indexed_ids) + len(held_out)
    points = measure_candidates(sample, queries, limits, num_rows, seed)
    chosen = {query_kind: choose_point(points, limits, query_kind) for query_kind in queries}
    return TuningAdvice(kind, len(sample), num_rows, points, chosen)


def _sample_vectors(store: Store, ids: Sequence[str], max_rows: int, seed: int) -> np.ndarray:
    """Draw at most `max_rows` of the ids at random and read their vectors (n, d) as float32."""
    ids, rng = sorted(ids), np.random.Generator(np.random.PCG64(seed))
    positions = rng.choice(len(ids), min(len(ids), max_rows), replace=False)
    return np.asarray(store.read("features", [ids[position] for position in np.sort(positions)]), np.float32)

"""`tern index tune`: measures index settings on the vectors of a plan and recommends one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets import Dataset
from data.store import Store
from index.config import Kind, check_kind
from index.tuning import OperatingPoint, TuningLimits, choose_point, measure_candidates, sample_rows
from pipeline.stages.dataset import HELD_OUT, held_out_ids
from pipeline.stages.queries import MIN_QUERIES, select_calibrated
from pipeline.stages.results import VectorStores
from tern.query import read_calibration

MAX_SAMPLE_ROWS = 50_000
MAX_QUERIES = 2_000  # of each kind
QUERY_KINDS = {"image": ("text", "image"), "caption": ("image", "text")}
"""Kinds of queries that search a collection; the first one that there are decides the recommended settings."""


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
    """Recommended operating point by kind of query; a kind without queries is missing."""
    calibrated: tuple[str, ...] = ()
    """Kinds of queries that are from the calibration of the model, because the dataset has few held-out ones."""

    @property
    def notes(self) -> list[str]:
        """Say which queries are not those of the dataset."""
        return [
            f"the {kind} queries are from the calibration of the model, because few are held out"
            for kind in self.calibrated
        ]

    @property
    def settings(self) -> list[str]:
        """Recommended settings of the index, each `KEY=VALUE` for `--set`.

        The number of lists grows in proportion to the rows. `nprobe` is not among the settings: the build measures it.
        """
        best = next(self.chosen[query_kind] for query_kind in QUERY_KINDS[self.kind] if query_kind in self.chosen)
        nlist = 1 if best.nlist == 1 else best.nlist * round(self.num_rows / self.num_sampled)
        code = best.factory.split(",")[1]
        return [f"index.factory=IVF{{nlist}},{code}", f"index.nlist={nlist}", f"index.rescore={best.rescore}"]


def advise_index_settings(
    kind: str, limits: TuningLimits, vectors: VectorStores, dataset: Dataset, seed: int = 0, model: Path | None = None
) -> TuningAdvice:
    """Measure index settings on a random sample of a collection.

    The queries are the held-out captions and images; none of them is in the sample. Without held-out captions, the text
    queries are those of the calibration of the model.

    Args:
        kind: Collection to search: `image` or `caption`.
        limits: Limits that the recommended settings must keep.
        vectors: Vector stores.
        dataset: Valid dataset.
        seed: Seed of the random sample.
        model: Folder of the model of the vectors; None: there is no calibration.

    Raises:
        ValueError: The kind is unknown, the dataset has no captions to tune, there are too few items, or no measured
            setting keeps the limits.
    """
    check_kind(kind)
    if kind == "caption" and not dataset.captions:
        raise ValueError(f"{dataset.name} has no captions, so there are no captions to tune. Pass --kind image.")
    stores: dict[Kind, Store] = {"image": Store(vectors.images), "caption": Store(vectors.captions)}
    held_out = _list_held_out_ids(dataset, stores)
    store, own_kind = stores["image" if kind == "image" else "caption"], QUERY_KINDS[kind][1]
    if len(held_out[own_kind]) < MIN_QUERIES:  # then some rows become queries instead
        held_out[own_kind] = _sample_ids(store.ids, max(MIN_QUERIES, min(MAX_QUERIES, len(store) // 10)), seed)
    indexed_ids = sorted(set(store.ids) - set(held_out[own_kind]))
    calibration = None if model is None else read_calibration(model)
    queries, calibrated = {}, []
    for query_kind in QUERY_KINDS[kind]:
        item_kind: Kind = "caption" if query_kind == "text" else "image"
        num_held_out = len(held_out[query_kind])
        vectors_of_model = select_calibrated(calibration, item_kind, num_held_out) if query_kind != own_kind else None
        if vectors_of_model is not None:
            queries[query_kind] = vectors_of_model
            calibrated.append(query_kind)
        elif num_held_out >= MIN_QUERIES:
            queries[query_kind] = _sample_vectors(stores[item_kind], held_out[query_kind], MAX_QUERIES, seed)
    sample, num_rows = _sample_vectors(store, indexed_ids, MAX_SAMPLE_ROWS, seed), len(store)
    points = measure_candidates(sample, queries, limits, num_rows, seed)
    chosen = {query_kind: choose_point(points, limits, query_kind) for query_kind in queries}
    return TuningAdvice(kind, len(sample), num_rows, points, chosen, tuple(calibrated))


def _list_held_out_ids(dataset: Dataset, stores: Mapping[Kind, Store]) -> dict[str, list[str]]:
    """List the ids of the items of the held-out splits that have a vector, by kind of query."""
    splits = [split for split in HELD_OUT if split in dataset.count_images_by_split()]
    parts = [held_out_ids(dataset, stores["image"], stores["caption"], split) for split in splits]
    return {
        "image": [image_id for image_ids, _, _ in parts for image_id in image_ids],
        "text": [caption_id for _, caption_ids, _ in parts for caption_id in caption_ids],
    }


def _sample_ids(ids: Sequence[str], max_rows: int, seed: int) -> list[str]:
    """Draw at most `max_rows` of the ids at random."""
    ids = sorted(ids)
    return [ids[position] for position in sample_rows(len(ids), max_rows, seed)]


def _sample_vectors(store: Store, ids: Sequence[str], max_rows: int, seed: int) -> np.ndarray:
    """Draw at most `max_rows` of the ids at random and read their vectors (n, d) as float32."""
    return np.asarray(store.read("features", _sample_ids(ids, max_rows, seed)), np.float32)

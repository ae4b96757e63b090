"""Queries that choose `nprobe` and measure an index: held-out items, those of the model, or the rows themselves."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data.datasets import Dataset
from data.store import Store, read_intact_row_vectors
from index.collection import Collection
from index.config import IndexConfig, Kind, QuerySource
from index.quality import GateQueries
from index.tuning import sample_rows
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from tern.query import Calibration

MIN_QUERIES = 2  # one half of the queries chooses nprobe, the other half measures it
FEW_QUERIES = 20  # with fewer held-out queries, those of the model package tell more
OTHER_KIND: dict[Kind, Kind] = {"image": "caption", "caption": "image"}


class KindStores(NamedTuple):
    """The stores of one kind of items."""

    vectors: Store
    """Vector store."""
    rows: Store | None
    """Store of the row vectors; None for a model without them."""


def choose_queries(
    kind: Kind,
    collection: Collection,
    dataset: Dataset,
    stores: Mapping[Kind, KindStores],
    calibration: Calibration | None,
    config: IndexConfig,
) -> GateQueries:
    """Choose the queries of a collection.

    The order is: items of the other kind from the held-out splits; the calibration of the model; items of the other
    kind from all splits; items of the collection itself.

    Args:
        kind: Kind of the items that are searched.
        collection: These items; at least one.
        dataset: Valid dataset.
        stores: Vector stores by kind.
        calibration: Held-out queries of the model; None if it has none.
        config: Settings of the index, with the seed and the maximum number of queries.
    """
    query_kind = OTHER_KIND[kind]
    held_out = _find_relevant_ids(query_kind, dataset, stores, HELD_OUT)
    calibrated = select_calibrated(calibration, query_kind, len(held_out))
    if calibration is not None and calibrated is not None:
        known = calibration.get(query_kind)
        # Their scores are combined ones if they have row vectors, and those of a search without reranking are not.
        scores = known.relevant_scores if known.rows is None or config.rerank else None
        return GateQueries(calibrated, None, "calibration", scores, known.rows)
    if len(held_out) >= MIN_QUERIES:
        return _read_queries(stores[query_kind], held_out, "held-out")
    captioned = _find_relevant_ids(query_kind, dataset, stores, tuple(dataset.count_images_by_split()))
    if len(captioned) >= MIN_QUERIES:
        return _read_queries(stores[query_kind], captioned, "dataset")
    ids = collection.sorted_ids
    sample = [ids[position] for position in sample_rows(len(ids), config.tuning_queries, config.seed)]
    if len(sample) < MIN_QUERIES:  # a single row both chooses nprobe and measures it
        sample *= MIN_QUERIES
    return GateQueries(collection.read(sample), None, "self")


def _read_queries(stores: KindStores, relevant_ids: Mapping[str, set[str]], source: QuerySource) -> GateQueries:
    ids = list(relevant_ids)
    vectors = stores.vectors.read("features", ids).astype(np.float32)
    rows = None if stores.rows is None else read_intact_row_vectors(stores.rows, ids)
    return GateQueries(vectors, list(relevant_ids.values()), source, rows=rows)


def select_calibrated(calibration: Calibration | None, query_kind: Kind, num_held_out: int) -> np.ndarray | None:
    """Return the vectors (n, e) of the calibration of a model, or None if the held-out queries tell as much.

    Args:
        calibration: Held-out queries of the model; None if it has none.
        query_kind: Kind of the queries.
        num_held_out: Number of held-out queries of the dataset.
    """
    if calibration is None or num_held_out >= FEW_QUERIES:
        return None
    vectors = np.asarray(calibration.get(query_kind).vectors, np.float32)
    return vectors if len(vectors) >= max(MIN_QUERIES, num_held_out) else None


def _find_relevant_ids(
    query_kind: Kind, dataset: Dataset, stores: Mapping[Kind, KindStores], splits: tuple[str, ...]
) -> dict[str, set[str]]:
    """Find the items of a kind that have a vector and a relevant item, and the ids of the relevant items of each."""
    relevant_ids: dict[str, set[str]] = {}
    for split in splits_with_captions(dataset, splits):
        ids, caption_ids, image_ids = held_out_ids(dataset, stores["image"].vectors, stores["caption"].vectors, split)
        if query_kind == "caption":
            relevant_ids |= {name: {image_id} for name, image_id in zip(caption_ids, image_ids, strict=True)}
            continue
        captions: dict[str, set[str]] = {name: set() for name in ids}
        for caption_id, image_id in zip(caption_ids, image_ids, strict=True):
            captions[image_id].add(caption_id)
        relevant_ids |= {name: items for name, items in captions.items() if items}
    return relevant_ids

"""A build trains on random rows drawn by its seed, and reads metadata rows in blocks."""

from collections.abc import Sequence

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.ivf import faiss_io
from index.metadata import tables
from index.metadata.schema import Row
from index.metadata.tables import build_table
from index.versions.folder import read_version_manifest
from tests.helpers.index_world import make


def find_training_rows(config: IndexConfig, root, monkeypatch) -> list[int]:
    """Return the positions, among the sorted image ids, of the rows that train the quantizer."""
    samples, train_ivf = [], faiss_io.train_ivf

    def record(factory, sample, seed):
        samples.append(sample)
        return train_ivf(factory, sample, seed)

    monkeypatch.setattr(faiss_io, "train_ivf", record)
    collections, queries = make(images=120)
    build_index(config, IndexInputs({"image": collections["image"]}, queries), root)
    monkeypatch.undo()
    vectors = collections["image"].read(sorted(collections["image"].ids))
    position_by_vector = {vector.tobytes(): i for i, vector in enumerate(vectors)}
    return [position_by_vector[vector.tobytes()] for vector in samples[0]]


def test_build_trains_on_random_rows_drawn_by_seed(tmp_path, monkeypatch):
    config = IndexConfig(nlist=1, train_rows=40)
    positions = find_training_rows(config, tmp_path / "1", monkeypatch)
    assert len(set(positions)) == 40
    thirds = np.bincount(np.array(positions) // 40, minlength=3)
    assert thirds.min() >= 5, "a prefix would be in the first third; 5 is far in the tail of a random draw"
    assert find_training_rows(config, tmp_path / "2", monkeypatch) == positions
    assert find_training_rows(config.model_copy(update={"seed": 1}), tmp_path / "3", monkeypatch) != positions


def test_build_trains_on_39_rows_per_list_if_they_exist(tmp_path, monkeypatch):
    assert len(find_training_rows(IndexConfig(nlist=2, train_rows=40), tmp_path / "1", monkeypatch)) == 78
    all_rows = find_training_rows(IndexConfig(nlist=8, train_rows=40), tmp_path / "2", monkeypatch)
    assert len(all_rows) == 120, "all rows"


class CountedRows(Sequence):
    """Rows that exist only while they are referenced; counts how many exist at the same time."""

    def __init__(self, rows):
        self._rows, self.max_alive, self.num_alive = rows, 0, 0

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, position):
        row = CountedRow(*self._rows[position])
        row.counter = self
        self.num_alive += 1
        self.max_alive = max(self.max_alive, self.num_alive)
        return row


class CountedRow(Row):
    counter = None

    def __del__(self):
        if self.counter is not None:
            self.counter.num_alive -= 1


def test_build_reads_rows_in_blocks_without_effect_on_bytes(tmp_path, monkeypatch):
    collections, queries = make(images=120)
    shards, max_alive = [], []
    for block in (7, 10_000):
        monkeypatch.setattr(tables, "BLOCK_ROWS", block)
        counted = {kind: CountedRows(c.metadata) for kind, c in collections.items()}
        lazy = {kind: Collection(c.ids, c.vectors, counted[kind]) for kind, c in collections.items()}
        build_index(IndexConfig(nlist=4), IndexInputs(lazy, queries), tmp_path / f"{block}")
        manifest = read_version_manifest(tmp_path / f"{block}")
        shards.append(
            [shard for collection_manifest in manifest.collections.values() for shard in collection_manifest.shards]
        )
        max_alive.append(max(rows.max_alive for rows in counted.values()))
    assert shards[0] == shards[1], "equal bytes"
    assert max_alive[0] <= 2 * 7 < 240 <= max_alive[1], "rows in memory at the same time"


def test_build_table_finds_equal_keys_across_blocks(monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    monkeypatch.setattr(tables, "compute_key", lambda row: len(row.id))
    with pytest.raises(ValueError, match="image 'a' and image 'b' share the 64-bit key"):
        build_table("image", (Row("image", name) for name in ("ccc", "a", "dd", "b")))

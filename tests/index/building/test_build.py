"""What a build draws and reads: the rows it trains on are random and seeded, metadata rows come by blocks."""

from collections.abc import Sequence

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import Collection
from index.config import IndexConfig
from index.ivf import faiss_io as shards
from index.metadata import tables as metadata
from index.metadata.tables import build_table
from index.versions.folder import read_version_manifest
from tests.helpers.index_world import make


def trained_on(config: IndexConfig, root, monkeypatch) -> list[int]:
    """The places, among the sorted ids of the images, of the rows that the quantizer saw."""
    seen, original = [], shards.train_ivf
    monkeypatch.setattr(
        shards, "train_ivf", lambda factory, some, seed: seen.append(some) or original(factory, some, seed)
    )
    collections, queries = make(images=120)
    build_index(config, {"image": collections["image"]}, queries, root)
    monkeypatch.undo()
    place = {row.tobytes(): i for i, row in enumerate(collections["image"].read(sorted(collections["image"].ids)))}
    return [place[row.tobytes()] for row in seen[0]]


def test_the_rows_that_train_are_drawn_at_random_by_the_seed(tmp_path, monkeypatch):
    some = IndexConfig(nlist=1, train_rows=40)
    places = trained_on(some, tmp_path / "1", monkeypatch)
    assert len(set(places)) == 40
    thirds = np.bincount(np.array(places) // 40, minlength=3)
    assert thirds.min() >= 5, "of a prefix all would be in the first third; 5 is far in the tail of a fair draw"
    assert trained_on(some, tmp_path / "2", monkeypatch) == places
    assert trained_on(some.model_copy(update={"seed": 1}), tmp_path / "3", monkeypatch) != places


def test_a_list_has_39_rows_to_train_on_where_there_are_so_many(tmp_path, monkeypatch):
    assert len(trained_on(IndexConfig(nlist=2, train_rows=40), tmp_path / "1", monkeypatch)) == 78
    assert len(trained_on(IndexConfig(nlist=8, train_rows=40), tmp_path / "2", monkeypatch)) == 120, "all there are"


class Made(Sequence):
    """Rows that are there only while they are looked at."""

    def __init__(self, rows):
        self._rows, self.most, self._held = rows, 0, 0

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, place):
        row = Row(self._rows[place])
        row.of = self
        self._held += 1
        self.most = max(self.most, self._held)
        return row


class Row(dict):
    of = None

    def __del__(self):
        if self.of is not None:
            self.of._held -= 1


def test_rows_are_read_by_blocks_which_do_not_show(tmp_path, monkeypatch):
    collections, queries = make(images=120)
    digests, most = [], []
    for block in (7, 10_000):
        monkeypatch.setattr(metadata, "BLOCK_ROWS", block)
        made = {kind: Made(c.metadata) for kind, c in collections.items()}
        lazy = {kind: Collection(c.ids, c.vectors, made[kind]) for kind, c in collections.items()}
        build_index(IndexConfig(nlist=4), lazy, queries, tmp_path / f"{block}")
        manifest = read_version_manifest(tmp_path / f"{block}")
        digests.append([shard for about in manifest.collections.values() for shard in about.shards])
        most.append(max(rows.most for rows in made.values()))
    assert digests[0] == digests[1], "byte for byte"
    assert most[0] <= 2 * 7 < 240 <= most[1], "rows in memory at a time"


def test_two_rows_of_one_key_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(metadata, "BLOCK_ROWS", 2)
    monkeypatch.setattr(metadata, "compute_key", lambda row: len(row["id"]))
    with pytest.raises(ValueError, match="image 'a' and image 'b' share the 64-bit key"):
        build_table("image", ({"id": name} for name in ("ccc", "a", "dd", "b")))

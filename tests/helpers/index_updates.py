"""A changing set of images and captions, compared with an index after updates by exact search in numpy."""

from pathlib import Path

import numpy as np

from data.alignment import RowVectors
from index.building.update import update_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.schema import Row
from index.search.index import Index
from tests.helpers.index_world import ALIGNMENT_WEIGHT, make, make_rows
from tests.reference.index import exact_ids, rerank_exactly, split_hits

CONFIG = IndexConfig(shards=2, nlist=4, factory="IVF{nlist},Flat")
PROVENANCE = {"model": "abc"}
Items = dict[str, tuple[np.ndarray, Row]]


def items_by_id(collection: Collection) -> Items:
    """Return vector and row of each id."""
    rows = zip(collection.ids, collection.vectors, collection.metadata, strict=True)
    return {name: (vector, row) for name, vector, row in rows}


class World:
    """What an index should return.

    Attributes:
        items: By kind, vector and row of each id.
        has_rows: Whether the items have row vectors.
        spare: Other vectors and rows, for new and changed items.
        read_ids: Ids whose vectors were read.
        read_row_ids: Ids whose row vectors were read.
    """

    def __init__(self, seed: int = 0, images: int = 60, has_rows: bool = True):
        collections, self.queries = make(seed, images)
        self.spare = {kind: items_by_id(collection) for kind, collection in make(seed + 1, images)[0].items()}
        self.items = {kind: items_by_id(collection) for kind, collection in collections.items()}
        self.has_rows = has_rows
        self.read_ids: set[str] = set()
        self.read_row_ids: set[str] = set()

    def inputs(self, provenance: dict[str, str] | None = None) -> IndexInputs:
        """Return the inputs of a build or an update."""
        return IndexInputs(
            self.collections(),
            self.queries,
            PROVENANCE if provenance is None else provenance,
            query_rows={kind: make_rows(vectors) for kind, vectors in self.queries.items() if self.has_rows},
            alignment_weight=ALIGNMENT_WEIGHT,
        )

    def collections(self) -> dict[str, Collection]:
        """Return the collections, whose vectors are read by a function."""
        return {kind: self._make_collection(items) for kind, items in self.items.items()}

    def _make_collection(self, items: Items) -> Collection:
        def read(ids: list[str]) -> np.ndarray:
            self.read_ids |= set(ids)
            return np.stack([items[name][0] for name in ids])

        def read_rows(ids: list[str]) -> RowVectors:
            self.read_row_ids |= set(ids)
            return make_rows(np.stack([items[name][0] for name in ids]))

        rows = [row for _, row in items.values()]
        return Collection(list(items), read, rows, read_rows if self.has_rows else None)

    def update(self, root: Path, **options) -> Path:
        """Update an index to this world."""
        self.read_ids.clear()
        self.read_row_ids.clear()
        return update_index(CONFIG, self.inputs(), root, **options)

    def change(self, kind: str, *ids: str) -> None:
        """Change vector and row of some items."""
        for name in ids:
            vector, row = self.spare[kind][name]
            self.items[kind][name] = (vector, row._replace(content_hash=f"changed {name}"))

    def add(self, kind: str, *ids: str) -> None:
        """Add spare items under new ids."""
        for name in ids:
            vector, row = self.spare[kind][name]
            self.items[kind][f"new-{name}"] = (vector, row._replace(id=f"new-{name}"))

    def remove(self, kind: str, *ids: str) -> Items:
        """Remove items and return them."""
        return {name: self.items[kind].pop(name) for name in ids}

    def check(self, root: Path) -> None:
        """Assert that the published version, with every list probed, returns what a sort of all items returns."""
        with Index.open(root) as index:
            for kind, items in self.items.items():
                collection = Collection(list(items), np.stack([vector for vector, _ in items.values()]), [])
                queries = self.queries[kind][:12]
                ids, _ = split_hits(index.search(queries, 10, kind, nprobe=4))
                assert ids == exact_ids(collection, queries, 10)
                allowed_ids = set(list(items)[::7])
                ids, _ = split_hits(index.search(queries[:3], 4, kind, allowed_ids=allowed_ids))
                assert ids == exact_ids(collection, queries[:3], 4, allowed_ids)
                if self.has_rows:
                    _check_reranked(index, kind, collection, queries[:3])
                rows = index.get_metadata(items, kind)
                assert rows.keys() == items.keys()
                assert all(rows[name]._replace(key=None) == row for name, (_, row) in items.items())
                assert index.manifest.collections[kind].counts.live == len(items)


def _check_reranked(index: Index, kind: str, collection: Collection, queries: np.ndarray) -> None:
    query_rows, rows = make_rows(queries), make_rows(collection.vectors)
    ids, scores = split_hits(index.search(queries, 12, kind, nprobe=4, query_rows=query_rows, rerank=9))
    expected = rerank_exactly(collection, queries, query_rows, rows, ALIGNMENT_WEIGHT, 9, 12)
    assert ids == expected[0]
    np.testing.assert_allclose(scores, expected[1], atol=2e-6)


def edit(world: World) -> None:
    """Change, remove and add a few items."""
    world.change("caption", "0003.jpg#0", "0004.jpg#1")
    world.remove("caption", "0005.jpg#0", "0005.jpg#1")
    world.remove("image", "0005.jpg")
    world.add("image", "0001.jpg", "0002.jpg")
    world.add("caption", "0001.jpg#0")

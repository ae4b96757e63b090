"""Index updates of `tests`."""

from pathlib import Path

import numpy as np

from index.building.update import update_index
from index.collection import Collection
from index.config import IndexConfig
from index.search.index import Index
from tests.helpers.index_world import make
from tests.reference.index import answer, slow

CONFIG = IndexConfig(shards=2, nlist=4, factory="IVF{nlist},Flat")
ORIGIN = {"model": "abc"}


def flat(collections, kind):
    c = collections[kind]
    return {n: (v, row) for n, v, row in zip(c.ids, c.vectors, c.metadata, strict=True)}


class World:
    """What should be answered: {kind: {id: (vector, row)}}, and which vectors were asked for."""

    def __init__(self, seed: int = 0, images: int = 60):
        collections, self.queries = make(seed, images)
        self.spare = {kind: flat(make(seed + 1, images)[0], kind) for kind in collections}
        self.items = {kind: flat(collections, kind) for kind in collections}
        self.asked: set[str] = set()

    def collections(self) -> dict[str, Collection]:
        return {kind: self._collection(items) for kind, items in self.items.items()}

    def _collection(self, items) -> Collection:
        def read(names):
            self.asked |= set(names)
            return np.stack([items[name][0] for name in names])

        return Collection(list(items), read, [row for _, row in items.values()])

    def update(self, root: Path, **more) -> Path:
        self.asked.clear()
        return update_index(CONFIG, self.collections(), root, ORIGIN, **more)

    def change(self, kind: str, *names: str) -> None:
        for name in names:
            vector, row = self.spare[kind][name]
            self.items[kind][name] = (vector, row | {"content_hash": f"changed {name}"})

    def add(self, kind: str, *names: str) -> None:
        for name in names:
            vector, row = self.spare[kind][name]
            self.items[kind][f"new-{name}"] = (vector, row | {"id": f"new-{name}"})

    def remove(self, kind: str, *names: str) -> dict:
        return {name: self.items[kind].pop(name) for name in names}

    def check(self, root: Path) -> None:
        """All lists probed, the published version answers as a sort of every living row does."""
        with Index.open(root) as index:
            for kind, items in self.items.items():
                whole = Collection(list(items), np.stack([v for v, _ in items.values()]), [])
                queries = self.queries[kind][:12]
                found, _ = answer(index.search(queries, 10, kind, nprobe=4))
                assert found == slow(whole, queries, 10)
                some = set(list(items)[::7])
                found, _ = answer(index.search(queries[:3], 4, kind, allowed_ids=some))
                assert found == slow(whole, queries[:3], 4, some)
                rows = index.get_metadata(items, kind)
                assert rows.keys() == items.keys()
                assert all(row.items() <= rows[name].items() for name, (_, row) in items.items())
                assert index.manifest["collections"][kind]["counts"]["live"] == len(items)


def edit(world: World) -> None:
    world.change("caption", "0003.jpg#0", "0004.jpg#1")
    world.remove("caption", "0005.jpg#0", "0005.jpg#1")
    world.remove("image", "0005.jpg")
    world.add("image", "0001.jpg", "0002.jpg")
    world.add("caption", "0001.jpg#0")

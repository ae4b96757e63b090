"""Index rows of `pipeline`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.datasets import Caption, Dataset, Image
from data.store import Store
from index.collection import Collection
from index.metadata import Row


def _collection(dataset: Dataset, store: Store, kind: str, sizes: dict[str, tuple[int, int]]) -> Collection:
    """Every item of a kind that has a vector."""
    rows = MetadataRows(dataset, store, kind, sizes)
    return Collection(ids=rows.ids, vectors=partial(store.read, "features"), metadata=rows)


def _sizes(regions: Path | None, dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Image id -> width and height in pixels, as far as they are stored."""
    if regions is None:
        return {}
    store = Store(regions)
    names = [image.id for image in dataset.images if image.id in store]
    return dict(zip(names, map(tuple, store.read("size", names).tolist()), strict=True)) if names else {}


class MetadataRows(Sequence[Row]):
    """The metadata of every item of a kind that has a vector, each row made when it is asked for."""

    def __init__(self, dataset: Dataset, store: Store, kind: str, sizes: dict[str, tuple[int, int]]):
        self._dataset, self._kind, self._sizes = dataset, kind, sizes
        items: Sequence[Image | Caption] = dataset.images if kind == "image" else dataset.captions
        self._items = [item for item in items if item.id in store]
        self.ids = [item.id for item in self._items]
        self._sources = store.content_hashes(self.ids)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Row:
        item = self._items[place]
        image = item if isinstance(item, Image) else self._dataset.images_by_id[item.image_id]
        text = item.text if isinstance(item, Caption) else None
        path = image.path.relative_to(self._dataset.root).as_posix()
        width, height = self._sizes.get(image.id, (None, None))
        return Row(self._kind, item.id, image.id, text, path, image.split, width, height, self._sources[place])

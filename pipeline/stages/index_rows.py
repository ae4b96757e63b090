"""Collections of an index: the vectors of a vector store, with the metadata of their items from the dataset."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import overload

from data.datasets import Caption, Dataset, Image
from data.io import dump_columns
from data.store import Store, read_intact_row_vectors, read_intact_vectors
from index.collection import Collection
from index.config import Kind
from index.metadata import Row


def make_collection(
    dataset: Dataset,
    vectors: Store,
    kind: Kind,
    size_by_image_id: Mapping[str, tuple[int, int]],
    row_vectors: Store | None = None,
) -> Collection:
    """Make the collection of all items of a kind that have a vector.

    Args:
        dataset: Dataset of the items; their metadata becomes the rows.
        vectors: Vector store of this kind.
        kind: Kind of the items.
        size_by_image_id: (width, height) of each image, in pixels.
        row_vectors: Store of the row vectors of the same items; None for a model without them.
    """
    metadata = MetadataRows(dataset, vectors, kind, size_by_image_id)
    rows = None if row_vectors is None else partial(read_intact_row_vectors, row_vectors)
    return Collection(ids=metadata.ids, vectors=partial(read_intact_vectors, vectors), metadata=metadata, rows=rows)


def read_image_sizes(regions: Path | None, dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Read (width, height) in pixels by image id from a region store; empty if there is no region store."""
    if regions is None:
        return {}
    store = Store(regions)
    ids = [image.id for image in dataset.images if image.id in store]
    return dict(zip(ids, map(tuple, store.read("size", ids).tolist()), strict=True)) if ids else {}


class MetadataRows(Sequence[Row]):
    """Metadata of all items of a kind that have a vector. A row is built when it is read.

    Args:
        dataset: The dataset.
        vectors: Vector store; its content hashes become metadata too.
        kind: `image` or `caption`.
        size_by_image_id: (width, height) in pixels; missing for images without a known size.
    """

    def __init__(
        self, dataset: Dataset, vectors: Store, kind: Kind, size_by_image_id: Mapping[str, tuple[int, int]]
    ) -> None:
        self._dataset, self._kind, self._size_by_image_id = dataset, kind, size_by_image_id
        items: Sequence[Image | Caption] = dataset.images if kind == "image" else dataset.captions
        self._items = [item for item in items if item.id in vectors]
        self.ids = [item.id for item in self._items]
        self._hashes = vectors.content_hashes(self.ids)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        item = self._items[index]
        image = item if isinstance(item, Image) else self._dataset.images_by_id[item.image_id]
        text = item.text if isinstance(item, Caption) else None
        path = image.path.relative_to(self._dataset.root).as_posix()
        width, height = self._size_by_image_id.get(image.id, (None, None))
        row = Row(self._kind, item.id, image.id, text, path, image.split, width, height, self._hashes[index])
        return row._replace(columns=dump_columns(image.columns)) if image.columns else row

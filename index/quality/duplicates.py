"""Find the images of a version that are copies of each other: of equal content, or with a cosine above a threshold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index.metadata.schema import Row
from index.search.index import Index
from index.search.near_copies import NEAR_COPY_COSINE
from index.search.open_collection import OpenCollection

BATCH = 256  # images compared with all others at a time
BLOCK = 8192  # images that a batch is compared with at a time: 8 MiB of scores
MIN_THRESHOLD = 0.5  # below it, most images of any collection would be copies


@dataclass(frozen=True)
class Duplicate:
    """An image of a group of copies."""

    row: Row
    """Its metadata."""
    cosine: float
    """Cosine between this image and the first one of its group, at most 1."""
    size_bytes: int | None
    """Size of its file; None if there is no file."""
    is_exact: bool
    """Whether it has the content of the first image of its group."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are copies of one of them."""

    images: tuple[Duplicate, ...]
    """At least two images: the one with the most pixels first (then: the largest file, the first id), then the others,
    most similar first."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of its images, sorted."""
        return tuple(sorted({image.row.split for image in self.images if image.row.split}))

    @property
    def is_leak(self) -> bool:
        """Whether the images are in several splits, so that a model is measured with what it was trained on."""
        return len(self.splits) > 1

    @property
    def is_exact(self) -> bool:
        """Whether all images have the same content."""
        return all(image.is_exact for image in self.images)


def find_duplicates(
    index: Index,
    get_size_bytes: Callable[[Row], int | None],
    min_cosine: float = NEAR_COPY_COSINE,
    on_progress: Callable[[int], object] = lambda count: None,
) -> list[DuplicateGroup]:
    """Find the images that are copies of each other.

    All pairs are compared, each once. Each image is compared with the first image of a group and not with the others:
    if a is similar to b and b to c, but a not to c, then a and c are in different groups.

    Args:
        index: Version whose images are compared.
        get_size_bytes: Returns the size of the file of an image; None if there is no file.
        min_cosine: Smallest cosine of near copies, `MIN_THRESHOLD` to 1; 1: only images of equal content.
        on_progress: Called with the number of images that were compared with all others since the last call.

    Returns:
        The groups: first those in several splits, then the larger ones.

    Raises:
        ValueError: The threshold is out of range, or the version has no images.
    """
    if not MIN_THRESHOLD <= min_cosine <= 1:
        raise ValueError(f"The threshold is {min_cosine:g}. Pass a cosine from {MIN_THRESHOLD:g} to 1.")
    collection = index.collection("image")
    images = _list_images(collection, get_size_bytes)
    contents = [tuple(images[i] for i in same) for same in _group_by_content([row for row, _ in images])]
    leads = np.array([same[0][0].key for same in contents], np.int64)
    if min_cosine < 1:
        vectors = _read_vectors(collection, leads)
        on_progress(len(images) - len(leads))
        firsts, cosines = assign_near_copies(vectors, min_cosine, on_progress)
    else:
        on_progress(len(images))
        firsts, cosines = np.arange(len(leads)), np.ones(len(leads), np.float32)
    members: dict[int, list[int]] = {}
    for position, first in enumerate(firsts.tolist()):
        members.setdefault(first, []).append(position)
    groups = []
    for first, positions in members.items():
        ordered = sorted(positions, key=lambda i: (i != first, -cosines[i], i))
        group = [
            Duplicate(row, min(1.0, float(cosines[i])), size, i == first) for i in ordered for row, size in contents[i]
        ]
        if len(group) > 1:
            groups.append(DuplicateGroup(tuple(group)))
    return sorted(groups, key=lambda group: (not group.is_leak, -len(group.images), group.images[0].row.id))


def assign_near_copies(
    vectors: np.ndarray, min_cosine: float, on_progress: Callable[[int], object] = lambda count: None
) -> tuple[np.ndarray, np.ndarray]:
    """Assign each vector to the earlier vector that it is a near copy of; a copy is never a vector with copies.

    The memory is that of the vectors and of one block of scores, whatever the number of copies.

    Args:
        vectors: (n, d) float32 unit vectors; of two copies, the first one is kept.
        min_cosine: Smallest cosine of near copies.
        on_progress: Called with the number of vectors that were compared with all later ones, since the last call.

    Returns:
        (n,) int64 position of the most similar of the earlier vectors that are no copies, or of the vector itself; and
        (n,) float32 cosine between both.
    """
    firsts, cosines = np.arange(len(vectors)), np.ones(len(vectors), np.float32)

    def assign(first: int, scores: np.ndarray, candidates: np.ndarray) -> None:
        """Assign vectors `first`, `first + 1`, ... to `candidates`, if their `scores` are higher than those before."""
        part = slice(first, first + len(scores))
        is_copy = firsts[part] != np.arange(first, first + len(scores))
        is_better = (scores >= min_cosine) & (~is_copy | (scores > cosines[part]))
        firsts[part][is_better], cosines[part][is_better] = candidates[is_better], scores[is_better]

    for start in range(0, len(vectors), BATCH):
        batch = vectors[start : start + BATCH]
        scores = batch @ batch.T
        for i in range(len(batch)):
            if firsts[start + i] == start + i:
                later = scores[i, i + 1 :]
                assign(start + i + 1, later, np.full(len(later), start + i))
        distinct = start + np.flatnonzero(firsts[start : start + len(batch)] == np.arange(start, start + len(batch)))
        for block in range(start + len(batch), len(vectors) if len(distinct) else 0, BLOCK):
            scores = vectors[distinct] @ vectors[block : block + BLOCK].T  # (distinct, BLOCK)
            best = scores.argmax(axis=0)
            assign(block, scores[best, np.arange(len(best))], distinct[best])
        on_progress(len(batch))
    return firsts, cosines


def _list_images(
    collection: OpenCollection, get_size_bytes: Callable[[Row], int | None]
) -> list[tuple[Row, int | None]]:
    """List the live rows with the sizes of their files: most pixels first, then the largest file, then by id."""
    blocks = [keys for shard in collection.vectors.shards for keys, _ in shard.blocks(collection.deleted_keys)]
    keys = np.unique(np.concatenate(blocks)) if blocks else np.empty(0, np.int64)
    images = [(row, get_size_bytes(row)) for row in collection.rows.by_key(keys.tolist()).values()]
    return sorted(
        images, key=lambda image: (-(image[0].width or 0) * (image[0].height or 0), -(image[1] or 0), image[0].id)
    )


def _group_by_content(rows: Sequence[Row]) -> list[list[int]]:
    """Group the positions of rows of equal content, in the order of the first of each."""
    positions: dict[str | int, list[int]] = {}
    for position, row in enumerate(rows):
        positions.setdefault(row.content_hash or position, []).append(position)
    return list(positions.values())


def _read_vectors(collection: OpenCollection, keys: np.ndarray) -> np.ndarray:
    """Read the vectors of keys as (n, d) float32, scaled to unit length: they are stored as float16."""
    vectors = np.empty((len(keys), collection.vectors.dim), np.float32)
    for start in range(0, len(keys), BLOCK):
        block = collection.vectors.get(keys[start : start + BLOCK]).astype(np.float32)
        vectors[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors

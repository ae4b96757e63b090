"""Images of the region store of an index: their regions, and their ids by the content of a photo."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.io import digest, sha256_file
from data.manifest import is_store, read_store_manifest
from pipeline.plans.plan import Plan
from pipeline.search.query import Box
from pipeline.workspace import Workspace
from tern.query import ImageRegions

if TYPE_CHECKING:
    from data.store import Store

MIN_FRACTION_IN_BOX = 0.5  # of the area of a region that belongs to a box


@dataclass(frozen=True)
class StoredImage:
    """The regions of an image with their classes."""

    regions: ImageRegions
    class_ids: np.ndarray
    """(r,) int32, index into the classes of the recipe; below 0 for none."""


@dataclass(frozen=True)
class StoredBoxes:
    """The boxes of the regions of an image, without their features."""

    boxes: np.ndarray
    """(r, 4) float32, x1 y1 x2 y2 in pixels."""
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    labels: tuple[str, ...]
    """Class of each region; empty texts for regions without one."""
    is_grid: bool
    """Whether they are cells of a grid, whose borders say nothing about the image."""


def read_boxes(store: "Store", image_ids: Sequence[str]) -> list[StoredBoxes]:
    """Read the boxes of images of a region store, each column of all of them at once."""
    if not image_ids:
        return []
    ends = np.cumsum(store.lengths(image_ids))[:-1]
    boxes, class_ids = (np.split(store.read(field, image_ids), ends) for field in ("boxes", "class_ids"))
    sizes = store.read("size", image_ids).tolist()
    names, is_grid = store.recipe.get("classes", []), store.recipe.get("extractor") == "grid"
    return [
        StoredBoxes(
            image_boxes, (width, height), tuple(names[i] if 0 <= i < len(names) else "" for i in ids.tolist()), is_grid
        )
        for image_boxes, ids, (width, height) in zip(boxes, class_ids, sizes, strict=True)
    ]


class StoredImages:
    """The region store of an index: in the workspace, or the external one that the plan names.

    Args:
        plan: The plan.
        name: Name of the region store: `regions-` and the digest of its recipe.

    Raises:
        FileNotFoundError: The store does not exist.
        ValueError: The store has another recipe.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan = plan
        self._folder = plan.regions_store or Workspace(plan.workspace).stores / name
        if not is_store(self._folder):
            raise FileNotFoundError(f"There is no store in {self._folder}. Run `tern index` first.")
        # A store in the workspace has the name of its recipe.
        if plan.regions_store is not None:
            stored_name = f"regions-{digest(read_store_manifest(self._folder).recipe)}"
            if stored_name != name:
                raise ValueError(
                    f"The index was built from {name}, but {self._folder} holds {stored_name}. Run `tern index` first."
                )

    @cached_property
    def store(self) -> "Store":
        """The store, opened at its first use: hits without regions need none."""
        from data.store import Store  # lazy: h5py and the index of a large store take time

        return Store(self._folder)

    def close(self) -> None:
        """Close the store."""
        if "store" in vars(self):
            self.store.close()

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.store

    def read_regions(self, image_id: str) -> ImageRegions:
        """Read the regions of an image."""
        return self.read_images([image_id])[0].regions

    def read_images(self, image_ids: Sequence[str]) -> list[StoredImage]:
        """Read the regions of images of the store, each column of all of them at once."""
        if not image_ids:
            return []
        from data.store import read_image_regions  # lazy: as above

        class_ids = np.split(self.store.read("class_ids", image_ids), np.cumsum(self.store.lengths(image_ids))[:-1])
        regions = read_image_regions(self.store, image_ids)
        return [StoredImage(*image) for image in zip(regions, class_ids, strict=True)]

    def read_boxes(self, image_ids: Sequence[str]) -> dict[str, StoredBoxes]:
        """Read the boxes of images by their ids; images that are not in the store are left out."""
        known = [image_id for image_id in dict.fromkeys(image_ids) if image_id in self]
        return dict(zip(known, read_boxes(self.store, known), strict=True))

    def read_regions_in_box(self, image_id: str, box: Box) -> ImageRegions:
        """Read the regions of an image with at least half of their area in a box, cut to the box.

        Returns:
            The regions as those of an image of the size of the box.

        Raises:
            ValueError: The box is not a region of the image, or there is no region in it.
        """
        from data.images import check_box  # lazy: Pillow is for searches with photos

        features, boxes, size, scores = self.read_regions(image_id)
        x1, y1, x2, y2 = check_box(box, (int(size[0]), int(size[1])))
        cut = np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2)) - np.array((x1, y1, x1, y1), np.float32)
        is_in_box = _compute_areas(cut) >= MIN_FRACTION_IN_BOX * np.maximum(_compute_areas(boxes), 1e-6)
        if not is_in_box.any():
            raise ValueError(
                f"No region of {image_id!r} has at least half of its area in the box {x1},{y1},{x2},{y2}. Pass a "
                "larger box."
            )
        return features[is_in_box], cut[is_in_box], (x2 - x1, y2 - y1), scores[is_in_box]

    def find(self, photo: Path | bytes) -> str | None:
        """Return the id of one of the images of `find_all`, or None."""
        return next(iter(self.find_all(photo)), None)

    def find_all(self, photo: Path | bytes) -> list[str]:
        """Find the images whose files have the same bytes as a photo: a file, whatever its name is, or its content.

        Returns their ids.
        """
        sha256 = hash_photo(photo)
        if self._plan.regions_store is None:
            return self._ids_by_hash.get(sha256, [])
        # The content hashes of an imported store are not those of image files, so the dataset has to be searched.
        size = len(photo) if isinstance(photo, bytes) else photo.stat().st_size
        ids = self._ids_by_file_size
        candidates = [*ids.get(size, ()), *ids.get(0, ())]  # 0: not known before the image is read
        from data.images import hash_image  # lazy: Pillow is for searches with photos

        return [image_id for image_id in candidates if hash_image(self._path_by_id[image_id]) == sha256]

    @cached_property
    def _ids_by_hash(self) -> dict[str, list[str]]:
        ids_by_hash: dict[str, list[str]] = defaultdict(list)
        for image_id, content_hash in zip(self.store.ids, self.store.content_hashes(self.store.ids), strict=True):
            ids_by_hash[content_hash].append(image_id)
        return dict(ids_by_hash)

    @cached_property
    def _path_by_id(self) -> dict[str, Path]:
        from pipeline.stages import read_plan_dataset  # lazy: most searches need no dataset

        return {image.id: image.path for image in read_plan_dataset(self._plan).images if image.id in self.store}

    @cached_property
    def _ids_by_file_size(self) -> dict[int, list[str]]:
        """Image ids by the size of the image file in bytes, so that few files have to be read."""
        ids: dict[int, list[str]] = defaultdict(list)
        from data.images import count_image_bytes, find_image_container  # lazy: as above

        for image_id, path in self._path_by_id.items():
            if find_image_container(path) is not None:
                ids[count_image_bytes(path)].append(image_id)
        return ids


def hash_photo(photo: Path | bytes) -> str:
    """Return the SHA-256 of the content of a photo."""
    return hashlib.sha256(photo).hexdigest() if isinstance(photo, bytes) else sha256_file(photo)


def _compute_areas(boxes: np.ndarray) -> np.ndarray:
    """Compute the areas (r,) of boxes (r, 4)."""
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas

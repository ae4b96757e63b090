"""Records of a dataset: images, captions and invalid records, each with its id."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from data.config import ColumnType
from data.io.columns import ColumnValue

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)  # a dataset may have millions of them
class Image:
    """An image of a dataset.

    Attributes:
        id: File name, as in the annotations.
        split: One of `SPLITS`.
        columns: Values of the columns of the user's own, by name; those that the image has not are missing.
    """

    id: str
    path: Path
    split: str
    columns: Mapping[str, ColumnValue] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of an image.

    Attributes:
        id: The image id and the number of the caption, as Flickr30k names them: `1000092795.jpg#0`.
    """

    id: str
    image_id: str
    text: str


@dataclass(frozen=True)
class InvalidRecord:
    """An image, caption or row that cannot be used.

    Both texts are valid UTF-8. They may contain control characters: pass them through `printable` to display them.
    """

    name: str
    """Id of the image or caption, or the location of the record in its file."""
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Images and captions with ids.

    The image of every caption is in `images`, and every path is below `root`.
    """

    name: str
    root: Path
    """Folder of the images."""
    images: tuple[Image, ...]
    captions: tuple[Caption, ...]
    invalid_records: tuple[InvalidRecord, ...] = ()
    notes: tuple[str, ...] = ()
    """What was ignored or chosen while the dataset was read, one sentence each, for display."""
    num_drawn: int = 0
    """Number of images in the annotations and the folder whose split was drawn by the content of the file."""
    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    """Types of the columns of the user's own, by name."""

    @cached_property
    def images_by_id(self) -> dict[str, Image]:
        """Map image ids to images."""
        return {image.id: image for image in self.images}

    @cached_property
    def captions_by_id(self) -> dict[str, Caption]:
        """Map caption ids to captions."""
        return {caption.id: caption for caption in self.captions}

    @cached_property
    def image_id_by_caption_id(self) -> dict[str, str]:
        """Map caption ids to the ids of their images."""
        return {caption.id: caption.image_id for caption in self.captions}

    @cached_property
    def captions_by_image_id(self) -> dict[str, tuple[Caption, ...]]:
        """Map image ids to captions in the order of the annotations; the tuple may be empty."""
        captions: dict[str, list[Caption]] = {image.id: [] for image in self.images}
        for caption in self.captions:
            captions[caption.image_id].append(caption)
        return {image_id: tuple(values) for image_id, values in captions.items()}

    def select_split(self, name: str) -> "Dataset":
        """Return the dataset with the images of one split and their captions.

        Raises:
            ValueError: The split has no image.
        """
        images = tuple(image for image in self.images if image.split == name)
        if not images:
            sizes = ", ".join(f"{split} ({count:,} images)" for split, count in self.count_images_by_split().items())
            raise ValueError(
                f"{self.name} has no image in split {name!r}. Choose one of its splits: {sizes or 'none'}."
            )
        return self._with_images(images)

    def exclude_images(self, image_ids: set[str]) -> "Dataset":
        """Return the dataset without some images and their captions."""
        return self._with_images(tuple(image for image in self.images if image.id not in image_ids))

    def _with_images(self, images: tuple[Image, ...]) -> "Dataset":
        ids = {image.id for image in images}
        captions = tuple(caption for caption in self.captions if caption.image_id in ids)
        return replace(self, images=images, captions=captions)

    def count_images_by_split(self) -> dict[str, int]:
        """Count the images of each split."""
        counts: dict[str, int] = {}
        for image in self.images:
            counts[image.split] = counts.get(image.split, 0) + 1
        return counts

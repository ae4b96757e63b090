"""What a dataset is once it is read: images, captions, and what was refused, each by id."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Image:
    """A photograph: its id (the file name as the annotations give it), where it lies, and its split."""

    id: str
    path: Path
    split: str


@dataclass(frozen=True)
class Caption:
    """A sentence about an image. Ids are Flickr30k's own: `1000092795.jpg#0`."""

    id: str
    image_id: str
    text: str


@dataclass(frozen=True)
class InvalidRecord:
    """A record that was set aside, by name, with the reason. Both are valid text; to show them, see `printable`."""

    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Images and captions that belong together by id; every caption's image is among `images`, below `root`."""

    name: str
    root: Path
    images: tuple[Image, ...]
    captions: tuple[Caption, ...]
    invalid_records: tuple[InvalidRecord, ...] = ()

    @cached_property
    def images_by_id(self) -> dict[str, Image]:
        """Image id -> image."""
        return {image.id: image for image in self.images}

    @cached_property
    def captions_by_id(self) -> dict[str, Caption]:
        """Caption id -> caption."""
        return {caption.id: caption for caption in self.captions}

    @cached_property
    def image_id_by_caption_id(self) -> dict[str, str]:
        """Caption id -> the id of its image."""
        return {caption.id: caption.image_id for caption in self.captions}

    @cached_property
    def captions_by_image_id(self) -> dict[str, tuple[Caption, ...]]:
        """Image id -> its captions, in the order of the annotations; an empty tuple where it has none."""
        found: dict[str, list[Caption]] = {image.id: [] for image in self.images}
        for caption in self.captions:
            found[caption.image_id].append(caption)
        return {key: tuple(value) for key, value in found.items()}

    def select_split(self, name: str) -> "Dataset":
        """The images of one split and their captions; ValueError, listing those there are, if it has no image."""
        images = tuple(image for image in self.images if image.split == name)
        if not images:
            raise ValueError(
                f"{self.name}: no image is in split {name!r}; it has {self.count_images_by_split() or 'no images'}."
            )
        kept = {image.id for image in images}
        return Dataset(
            self.name, self.root, images, tuple(c for c in self.captions if c.image_id in kept), self.invalid_records
        )

    def exclude_images(self, image_ids: set[str]) -> "Dataset":
        """The dataset less these images and their captions (an extractor could not read them)."""
        images = tuple(image for image in self.images if image.id not in image_ids)
        captions = tuple(caption for caption in self.captions if caption.image_id not in image_ids)
        return Dataset(self.name, self.root, images, captions, self.invalid_records)

    def count_images_by_split(self) -> dict[str, int]:
        """Split -> number of images."""
        found: dict[str, int] = {}
        for image in self.images:
            found[image.split] = found.get(image.split, 0) + 1
        return found

"""Base class of the region extractors and the rows that they return; used by every kind of region extractor.

Shapes: r regions of an image, d feature size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.images import MAX_ASPECT_RATIO, DecodeLimits, ReducedImage, load_image_of_side

WHOLE_IMAGE = -1  # class id of a row that is not a detection


@dataclass(frozen=True)
class Regions:
    """Regions of one image, in the order of the extractor.

    The whole-image region, if there is one, is row 0.
    """

    features: np.ndarray
    """(r, d) float16"""
    boxes: np.ndarray
    """(r, 4) float32, x1 y1 x2 y2 in pixels of the original image"""
    class_ids: np.ndarray
    """(r,) int32, index into the `classes` of the extractor; -1 for none"""
    scores: np.ndarray
    """(r,) float32, probability of the class; 1 for the whole-image region"""
    attr_ids: np.ndarray
    """(r,) int32, index into the `attributes` of the extractor; -1 if it predicts no attributes"""
    attr_scores: np.ndarray
    """(r,) float32, probability of the attribute; 0 if the extractor predicts no attributes"""
    size: tuple[int, int]
    """Width and height of the image, in pixels."""


@dataclass(frozen=True)
class PreprocessedImage:
    """Network input of one image. Only images with inputs of the same shape share a batch."""

    input: Any
    """Tensor or array that `RegionExtractor.preprocess` makes from the pixels, (3, network height, network width) or
    (network height, network width, 3)"""
    size: tuple[int, int]
    """Width and height of the original image, in pixels."""


class RegionExtractor(ABC):
    """A network with its weights that turns images into regions.

    A call does not change the extractor. Each process builds its own. `preprocess` may run in any thread at the same
    time as `extract`, which runs in one thread.
    """

    dim: int
    """Feature size."""
    classes: tuple[str, ...]
    """Names of the class ids; () if they are unknown."""
    attributes: tuple[str, ...] = ()
    """Names of the attribute ids; () if the extractor predicts no attributes."""
    batch_size: int = 1
    """Maximum number of images per call of `extract`. The extractors of this project leave it at 1, because the last
    bits of the features of an image would otherwise depend on the other images of its batch."""
    num_loaders: int = 1
    """Number of images that are decoded and preprocessed at the same time, in threads."""
    min_decoded_side: int | None = None
    """Number of pixels that both sides of a JPEG keep at least while it is decoded; None decodes all pixels."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Return all settings, hashes and names that determine the stored rows; its digest names the store."""
        return {
            **self._settings_recipe(),
            "classes": list(self.classes),
            "attributes": list(self.attributes),
        }

    @abstractmethod
    def _settings_recipe(self) -> dict[str, Any]:
        """Return the settings and the hash of the weights that determine the numbers; no path and no device."""

    def load(self, source: Path | bytes, limits: DecodeLimits | None = None) -> ReducedImage:
        """Decode an image at the size that this extractor needs; see `load_image_of_side`."""
        return load_image_of_side(source, self.min_decoded_side, limits)

    def preprocess_reduced(self, image: ReducedImage) -> PreprocessedImage:
        """Turn an image into the network input; boxes are in pixels of the image before it was reduced."""
        return replace(self.preprocess(image.pixels), size=image.size)

    def extract_reduced(self, image: ReducedImage) -> Regions:
        """Extract the regions of one image.

        Raises:
            ValueError: The image is too narrow.
        """
        check_image(image.pixels)
        return self.extract([self.preprocess_reduced(image)])[0]

    @abstractmethod
    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Turn an (h, w, 3) uint8 RGB image into the network input."""

    @abstractmethod
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the regions of images whose inputs have the same shape.

        The device has read the inputs on return.
        """

    def __call__(self, images: list[np.ndarray]) -> list[Regions]:
        """Extract the regions of images of any sizes.

        Only images with the same network input size share a batch: with padding, the features of an image would depend
        on the other images of its batch.

        Args:
            images: (h, w, 3) uint8 RGB each.

        Returns:
            One `Regions` per image, in the same order.

        Raises:
            ValueError: An image has another dtype or shape, or is too narrow.
        """
        inputs = [self.preprocess(check_image(image, index)) for index, image in enumerate(images)]
        indices_by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(inputs):
            indices_by_shape[tuple(image.input.shape)].append(index)
        regions: dict[int, Regions] = {}
        for indices in indices_by_shape.values():
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                regions.update(zip(batch, self.extract([inputs[i] for i in batch]), strict=True))
        return [regions[i] for i in range(len(images))]


def check_image(image: np.ndarray, index: int = 0) -> np.ndarray:
    """Return an image unchanged, or raise ValueError if it is not (h, w, 3) uint8 or too narrow.

    Args:
        image: Image to check.
        index: Position of the image, for the error message.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"Image {index} is {image.dtype} {image.shape}, not (h, w, 3) uint8. Load it with `data.images.load_image`."
        )
    height, width = image.shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"Image {index} is {width}x{height}, narrower than 1:{MAX_ASPECT_RATIO}. Crop it.")
    return image

"""What every region extractor gives: rows of an image; and how images come to it, alone or many.

r rows of an image, d feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.images import MAX_ASPECT_RATIO

WHOLE_IMAGE = -1  # class id of a row that is no detection


@dataclass(frozen=True)
class Regions:
    """The rows of one image, in the extractor's order (the whole image, where there is one, is row 0)."""

    features: np.ndarray  # (r, d) float16
    boxes: np.ndarray  # (r, 4) float32, x1 y1 x2 y2 in pixels of the image as given
    class_ids: np.ndarray  # (r,) int32, index into the extractor's `classes`; -1 for none
    scores: np.ndarray  # (r,) float32, probability of the class; 1 for the whole image
    attr_ids: np.ndarray  # (r,) int32, index into the extractor's `attributes`; -1 where none was looked for
    attr_scores: np.ndarray  # (r,) float32, probability of the attribute; 0 where none was looked for
    size: tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class PreprocessedImage:
    """An image as a network takes it. Only images with inputs of one shape share a batch."""

    input: Tensor  # (3, net h, net w), whatever the extractor's `prepare` makes of the pixels
    size: tuple[int, int]  # width, height of the image as given, pixels


class RegionExtractor(ABC):
    """A network with its weights. A call changes nothing in it; every process builds its own.

    `prepare` may run in any thread beside `extract`, which runs in one.
    """

    dim: int  # feature width
    classes: tuple[str, ...]  # what `class_ids` name; () when not known
    attributes: tuple[str, ...] = ()  # what `attr_ids` name
    batch_size: int = 1  # images of one input size that `extract` takes best at once

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

    @abstractmethod
    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """`(h, w, 3)` uint8 RGB -> the network's input."""

    @abstractmethod
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Regions of images whose inputs have one shape. The device has done with the inputs when it returns."""

    @torch.inference_mode()
    def __call__(self, images: list[np.ndarray]) -> list[Regions]:
        """Regions of each image, in the order given; images are `(h, w, 3)` uint8 RGB of any sizes.

        Only images of one net size share a batch: padding to a common size would let batch mates change features.
        """
        prepared = [self.preprocess(check_image(image, index)) for index, image in enumerate(images)]
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(prepared):
            groups[tuple(image.input.shape)].append(index)
        found: dict[int, Regions] = {}
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                found.update(zip(batch, self.extract([prepared[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(images))]


def check_image(image: np.ndarray, index: int = 0) -> np.ndarray:
    """The image itself, or a ValueError that says what it should have been."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {index} is {image.dtype} {image.shape}: give (h, w, 3) uint8, see data.images.decode")
    if max(image.shape[:2]) > MAX_ASPECT_RATIO * min(image.shape[:2]):
        raise ValueError(
            f"image {index} is {image.shape[1]}x{image.shape[0]}, thinner than 1:{MAX_ASPECT_RATIO}; crop it"
        )
    return image

"""Resize and crop the pixels of an image to a network input, as timm's transforms do; used by the grid extractor.

Sizes and filters (Pillow's, on uint8) are those of `timm.data.transforms_factory.transforms_imagenet_eval`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

MAX_ASPECT_RATIO = 4  # of a network input that keeps the aspect ratio; thinner images are squashed to it
MIN_REDUCTION = 2  # a decoded image has at least this many times the sides of the network input


class ImageFit(BaseModel):
    """Size and colors of a network input, and how an image is fitted to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Literal["squash", "short side", "center crop"]
    """Kind of the fit, see `extractors.config.GridConfig`."""
    image_size: int
    """Side of the square input, or its short side, in pixels."""
    mean: tuple[float, float, float]
    """Mean of each color of the input, 0 to 1."""
    std: tuple[float, float, float]
    """Standard deviation of each color of the input, 0 to 1."""
    interpolation: str
    """Name of a filter of Pillow, in lower case."""
    crop_pct: float
    """Side of the central square as a fraction of the short side of the resized image."""
    patch_size: int
    """Number of pixels of which each side of an input must be a multiple; 1 for a convolutional network."""

    @property
    def is_square(self) -> bool:
        """Whether all inputs have one shape."""
        return self.fit != "short side"

    @property
    def min_decoded_side(self) -> int:
        """Number of pixels that both sides of an image keep if it is reduced while it is decoded."""
        return MIN_REDUCTION * (int(self.image_size / self.crop_pct) if self.fit == "center crop" else self.image_size)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return the network input of an image, before its colors are normalized.

        Args:
            pixels: (h, w, 3) uint8 RGB.

        Returns:
            (network height, network width, 3) uint8.
        """
        height, width = pixels.shape[:2]
        image = Image.fromarray(pixels)
        size = self._resized_size(width, height)
        if size != image.size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        if self.fit == "center crop":
            left, top = self._crop_corner(size)
            image = image.crop((left, top, left + self.image_size, top + self.image_size))
        return np.array(image)

    def seen_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image that the network sees: x1 y1 x2 y2 in pixels of the image.

        Args:
            size: Width and height of the image, in pixels.
        """
        width, height = size
        if self.fit != "center crop":
            return 0.0, 0.0, float(width), float(height)
        resized = self._resized_size(width, height)
        left, top = self._crop_corner(resized)
        x, y = width / resized[0], height / resized[1]
        return left * x, top * y, (left + self.image_size) * x, (top + self.image_size) * y

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of a resized image, as `torchvision.transforms.Resize` computes them."""
        if self.fit == "squash":
            return self.image_size, self.image_size
        short = self.image_size if self.fit == "short side" else int(self.image_size / self.crop_pct)
        long = int(short * max(width, height) / min(width, height))
        if self.fit == "short side":
            long = min(max(round(long / self.patch_size), 1) * self.patch_size, MAX_ASPECT_RATIO * short)
        return (short, long) if width <= height else (long, short)

    def _crop_corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the left and top edge of the central square, as `torchvision.transforms.CenterCrop` rounds them."""
        left, top = (round((side - self.image_size) / 2) for side in size)
        return left, top


class BackboneInfo(BaseModel):
    """What must be known of a loaded backbone to prepare its inputs and to name its features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: ImageFit
    """Size and colors of the network input."""
    channels: tuple[int, ...]
    """Number of channels of the map of each layer."""
    map_side: int
    """Smallest number of rows or columns of the maps of a square input."""
    weights_sha256: str
    """SHA-256 of the weights, see `state_sha256`."""

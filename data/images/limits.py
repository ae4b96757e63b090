"""Bounds on the work that decoding one image may cause."""

from dataclasses import dataclass

from data.images.jpeg import MAX_SCANS

MAX_PIXELS = 64_000_000
MAX_ASPECT_RATIO = 50  # long side by short side; a detector would scale a thinner strip to nothing


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds on the work that one image may cause, and what is checked."""

    max_pixels: int = MAX_PIXELS
    """Maximum width times height."""
    max_full_pixels: int = MAX_PIXELS
    """Maximum width times height of a format that cannot be reduced while it is decoded: all except JPEG."""
    max_scanned_pixels: int = MAX_SCANS * MAX_PIXELS
    """Maximum width times height times scans of a JPEG: the decoder processes all pixels once per scan."""
    is_complete: bool = True
    """Whether a JPEG must have data for all of its pixels; the check decodes it once more, at 1/8 of each side."""

    def check_size(self, size: tuple[int, int], is_reducible: bool) -> None:
        """Check the width and height that the header of an image names.

        Args:
            size: Width and height, in pixels.
            is_reducible: Whether the image can be reduced while it is decoded.

        Raises:
            ValueError: The image has no pixels, too many, or is too thin.
        """
        width, height = size
        max_pixels = self.max_pixels if is_reducible else min(self.max_pixels, self.max_full_pixels)
        if min(size) < 1:
            raise ValueError(f"{width}x{height} has no pixels")
        if width * height > max_pixels:
            raise ValueError(f"{width}x{height} is more than {max_pixels} pixels; shrink it or raise max_pixels")
        if max(size) > MAX_ASPECT_RATIO * min(size):
            raise ValueError(f"{width}x{height} is thinner than 1:{MAX_ASPECT_RATIO}; crop it")

    def check_scans(self, num_scans: int, size: tuple[int, int]) -> None:
        """Check the number of scans of a JPEG.

        Raises:
            ValueError: There are too many for its size.
        """
        max_scans = min(MAX_SCANS, self.max_scanned_pixels // (size[0] * size[1]))
        if num_scans > max_scans:
            raise ValueError(f"its {num_scans:,} scans are more than {max_scans}")

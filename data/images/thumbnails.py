"""Small copies of image files, for pages, the search service, notebooks and assistants."""

import io
from pathlib import Path

from PIL import Image

from data.images.decode import ReducedImage, load_reduced_image
from data.images.limits import DecodeLimits

JPEG_QUALITY = 82


def load_thumbnail(path: Path, size: tuple[int, int]) -> ReducedImage | None:
    """Decode an image file at the size of a thumbnail.

    Args:
        path: Image file.
        size: Maximum width and height in pixels.

    Returns:
        The thumbnail; None if the file is unreadable.
    """
    try:
        return load_reduced_image(path, size, DecodeLimits(is_complete=False))
    except (ValueError, OSError):
        return None


def encode_thumbnail(path: Path, size: tuple[int, int]) -> bytes | None:
    """Return the thumbnail of an image file as a JPEG; the arguments and None are those of `load_thumbnail`."""
    image = load_thumbnail(path, size)
    return None if image is None else encode_jpeg(Image.fromarray(image.pixels))


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()

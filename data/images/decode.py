"""Decode image files: upright RGB pixels, or an error with the reason."""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from data.images.avif import check_frames
from data.images.colors import to_rgb
from data.images.jpeg import check_completeness, read_structure
from data.images.limits import MAX_PIXELS, DecodeLimits
from data.images.png import check_png
from data.images.sources import find_shard, read_image
from data.images.tiff import check_jpeg_parts, open_full_page
from data.io.files import TRANSIENT_ERRNOS
from data.text import printable

# Named formats only: otherwise Pillow tries every plug-in, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as all decoders here: images are decoded in as many processes as there are
# Pillow's decoders raise all of these on damaged files.
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, AttributeError, struct.error),
    *(KeyError, ArithmeticError, RuntimeError, Image.DecompressionBombError),
)

# EXIF
ORIENTATION = 0x0112
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = [EXIF_TRANSPOSES[orientation] for orientation in (5, 6, 7, 8)]  # width and height are exchanged


@dataclass(frozen=True)
class ReducedImage:
    """An image that may have been reduced while it was decoded."""

    pixels: np.ndarray
    """(h, w, 3) uint8 RGB, upright"""
    size: tuple[int, int]
    """Width and height of the upright image before it was reduced, in pixels."""


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file, and apply its EXIF orientation.

    - The content decides the format, not the suffix. An animation or a stereo pair (MPO) gives its first frame.
    - Alpha, a transparent palette entry and an 8-bit color key are composed with white; other color keys are ignored.
    - 16-bit samples are scaled to 8 bits (65,535 becomes 255, within one level). 32-bit and float samples are errors.
    - CMYK is converted as (255 - C)(255 - K) / 255; a CMYK JPEG counts as inverted, as Adobe writes it. Lab is
      converted by its definition (D50 to sRGB). Color profiles are not applied, as in the training of detectors.
    - Size, bytes and scans are limited before decoding. All pixels are decoded at full size, because Pillow's `draft`
      gives other values. A PNG must have valid checksums; a JPEG has none, so a wrong byte in it is not noticed.
    - A JPEG or PNG whose data end before the last pixel is an error. Of a TIFF, reduced copies and masks are skipped.

    Args:
        path: Image file.
        max_pixels: Maximum width times height.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file cannot be decoded; the message has the reason.
        OSError: A transient I/O error occurred, such as a failing disk or too many open files.
    """
    return load_image_of_side(Path(path), None, DecodeLimits(max_pixels, max_pixels)).pixels


def load_image_of_side(source: Path | bytes, min_side: int | None, limits: DecodeLimits | None = None) -> ReducedImage:
    """Decode an image as `load_image` does, but a large JPEG at 1/2, 1/4 or 1/8 of each side.

    Args:
        source: Image file, or the content of one.
        min_side: Number of pixels that width and height keep at least; None does not reduce.
        limits: Bounds on size and scans; those of `load_image` if None.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The image cannot be decoded or exceeds a limit; the message has the reason.
        OSError: A transient I/O error occurred.
    """
    return _load(source, limits, _Reduction(min_side=min_side))


def load_reduced_image(
    source: Path | bytes, max_size: tuple[int, int], limits: DecodeLimits | None = None, min_pixels: int = 0
) -> ReducedImage:
    """Decode an image so that it fits into a box. An image that fits already is as `load_image` returns it.

    A JPEG is reduced while it is decoded (`Image.draft`: to 1/2, 1/4 or 1/8 of each side), in a fraction of the time
    and the memory of all pixels. Other formats are decoded at full size first.

    Args:
        source: Image file, or the content of one.
        max_size: Maximum width and height of the upright result, in pixels.
        limits: Bounds on size and scans; those of `load_image` if None.
        min_pixels: An image of at most this width times height is not reduced.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The image cannot be decoded or exceeds a limit; the message has the reason.
        OSError: A transient I/O error occurred.
    """
    return _load(source, limits, _Reduction(max_size, min_pixels))


@dataclass(frozen=True)
class _Reduction:
    """How far an image is reduced, see `load_reduced_image` and `load_image_of_side`."""

    max_size: tuple[int, int] | None = None
    min_pixels: int = 0
    min_side: int | None = None

    def draft_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size that a JPEG keeps at least while it is decoded; None does not reduce it."""
        if self.min_side is not None:
            return (self.min_side, self.min_side)
        if self.max_size is None or size[0] * size[1] <= self.min_pixels:
            return None
        scale = max(self.max_size) / max(size)  # a square: the image may yet be turned
        return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))) if scale < 1 else None

    def fit(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return an upright image that fits into `max_size`; `size` is the one before it was reduced."""
        box = self.max_size
        if box is None or size[0] * size[1] <= self.min_pixels or (image.width <= box[0] and image.height <= box[1]):
            return image
        return ImageOps.contain(image, box)


def _load(source: Path | bytes, limits: DecodeLimits | None, reduction: _Reduction) -> ReducedImage:
    try:
        return _decode(_read_bytes(source), limits or DecodeLimits(), reduction)
    except FileNotFoundError:
        raise
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            raise
        name = f"the image {source}" if isinstance(source, Path) else "the photo"
        raise ValueError(printable(f"cannot use {name}: {_get_reason(error)}")) from error


def _read_bytes(source: Path | bytes) -> bytes:
    """Read a file before it is decoded: an I/O error inside a decoder would look like a damaged image."""
    content = source if isinstance(source, bytes) else read_image(source)
    if not content:
        raise ValueError("the file is empty")
    return content


def _decode(content: bytes, limits: DecodeLimits, reduction: _Reduction) -> ReducedImage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own size limit and of unusual EXIF; neither matters here
        with _open_picture(content) as image:
            structure, size = read_structure(content) if image.format in ("JPEG", "MPO") else None, image.size
            limits.check_size(size, is_reducible=structure is not None)
            if image.format == "PNG":
                check_png(content)
            if image.format == "TIFF":
                check_jpeg_parts(content, image)
            if image.format == "AVIF":
                check_frames(content, min(limits.max_pixels, limits.max_full_pixels))
            if structure:
                limits.check_scans(structure.num_scans, size)
                if draft_size := reduction.draft_size(size):
                    image.draft(None, draft_size)
            image.load()  # before the EXIF tag is read: Pillow transposes a TIFF itself, and then removes the tag
            if structure and limits.is_complete:
                check_completeness(content, structure, image, round(size[0] / image.width))
            transpose, rgb = _read_transpose(image), to_rgb(image)
            size = size if structure else image.size
            upright = reduction.fit(rgb if transpose is None else rgb.transpose(transpose), size)
            return ReducedImage(np.array(upright), size[::-1] if transpose in QUARTER_TURNS else size)


def _open_picture(content: bytes) -> Image.Image:
    """Open the first picture of a file: its first frame, or the first full page of a TIFF."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise ValueError(f"it cannot be read as any of {formats}; its first bytes are {content[:12]!r}") from error
    return open_full_page(content, image) if image.format == "TIFF" else image


def read_image_size(path: Path) -> tuple[int, int]:
    """Read width and height of an image as `load_image` returns it: of a full page, with EXIF orientation.

    Raises:
        ValueError: The header cannot be read.
        OSError: A transient I/O error occurred.
    """
    try:
        with Image.open(path if find_shard(path) is None else io.BytesIO(read_image(path)), formats=FORMATS) as image:
            if image.format != "TIFF":
                return _turn_size(image)
        with _open_picture(_read_bytes(path)) as page:
            return _turn_size(page)
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            raise
        raise ValueError(printable(f"cannot read the size of {path}: {_get_reason(error)}")) from error


def _turn_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _read_transpose(image) in QUARTER_TURNS else image.size


def _get_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _read_transpose(image: Image.Image) -> Image.Transpose | None:
    """Read the EXIF orientation; the rest of the EXIF is often malformed and is not read."""
    try:
        return EXIF_TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))
    except DECODE_ERRORS:
        return None

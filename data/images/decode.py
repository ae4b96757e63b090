"""Decode image files: upright RGB pixels, or an error with the reason."""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.images.jpeg import MAX_SCANS, check_completeness, read_structure
from data.images.png import check_png
from data.images.tiff import check_jpeg_parts, open_full_page
from data.io.files import TRANSIENT_ERRNOS
from data.text import printable

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 << 20  # of a file: 64 million pixels of six bytes, uncompressed, are 384 MB
MAX_ASPECT_RATIO = 50  # long side by short side; a detector would scale a thinner strip to nothing
# Named formats only: otherwise Pillow tries every plug-in, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
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

# TIFF
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


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
    """Whether a JPEG must have data for all of its pixels; the check decodes it twice more."""


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
    return load_reduced_image(Path(path), None, DecodeLimits(max_pixels, max_pixels)).pixels


def load_reduced_image(
    source: Path | bytes, max_size: tuple[int, int] | None, limits: DecodeLimits | None = None, min_pixels: int = 0
) -> ReducedImage:
    """Decode an image so that it fits into a box. An image that fits already is as `load_image` returns it.

    A JPEG is reduced while it is decoded (`Image.draft`: to 1/2, 1/4 or 1/8 of each side), in a fraction of the time
    and the memory of all pixels. Other formats are decoded at full size first.

    Args:
        source: Image file, or the content of one.
        max_size: Maximum width and height of the upright result, in pixels; None does not reduce.
        limits: Bounds on size and scans; those of `load_image` if None.
        min_pixels: An image of at most this width times height is not reduced.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The image cannot be decoded or exceeds a limit; the message has the reason.
        OSError: A transient I/O error occurred.
    """
    try:
        return _decode(_read_bytes(source), limits or DecodeLimits(), max_size, min_pixels)
    except FileNotFoundError:
        raise
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            raise
        name = f"the image {source}" if isinstance(source, Path) else "the photo"
        raise ValueError(printable(f"cannot use {name}: {_get_reason(error)}")) from error


def _read_bytes(source: Path | bytes) -> bytes:
    """Read a file before it is decoded: an I/O error inside a decoder would look like a damaged image."""
    content = source if isinstance(source, bytes) else _read_file(source)
    if not content:
        raise ValueError("the file is empty")
    return content


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # a pipe would block
        raise FileNotFoundError(printable(f"No image at {path}. Check the dataset's folder of images."))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"its {size:,} bytes are more than {MAX_BYTES:,}")
    return path.read_bytes()


def _decode(content: bytes, limits: DecodeLimits, max_size: tuple[int, int] | None, min_pixels: int) -> ReducedImage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own size limit and of unusual EXIF; neither matters here
        with _open_picture(content) as image:
            structure, size = read_structure(content) if image.format in ("JPEG", "MPO") else None, image.size
            _check_size(size, limits.max_pixels if structure else min(limits.max_pixels, limits.max_full_pixels))
            max_size = None if size[0] * size[1] <= min_pixels else max_size
            if image.format == "PNG":
                check_png(content)
            if image.format == "TIFF":
                check_jpeg_parts(content, image)
            if structure:
                _check_scans(structure.num_scans, size, limits)
                if max_size is not None and (scale := max(max_size) / max(size)) < 1:  # a square: it may yet be turned
                    image.draft(None, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
            image.load()  # before the EXIF tag is read: Pillow transposes a TIFF itself, and then removes the tag
            if structure and limits.is_complete:
                check_completeness(content, structure, image, round(size[0] / image.width))
            transpose, rgb = _read_transpose(image), _to_rgb(image)
            size = size if structure else image.size
            upright = rgb if transpose is None else rgb.transpose(transpose)
            if max_size is not None and (upright.width > max_size[0] or upright.height > max_size[1]):
                upright = ImageOps.contain(upright, max_size)
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
        with Image.open(path, formats=FORMATS) as image:
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


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise ValueError(f"{width}x{height} has no pixels")
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} is more than {max_pixels} pixels; shrink it or raise max_pixels")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(f"{width}x{height} is thinner than 1:{MAX_ASPECT_RATIO}; crop it")


def _check_scans(num_scans: int, size: tuple[int, int], limits: DecodeLimits) -> None:
    max_scans = min(MAX_SCANS, limits.max_scanned_pixels // (size[0] * size[1]))
    if num_scans > max_scans:
        raise ValueError(f"its {num_scans:,} scans are more than {max_scans}")


def _read_transpose(image: Image.Image) -> Image.Transpose | None:
    """Read the EXIF orientation; the rest of the EXIF is often malformed and is not read."""
    try:
        return EXIF_TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))
    except DECODE_ERRORS:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's mode of a 16-bit gray PNG or PGM is I;16 or I, depending on the release.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(_scale_gray_to_8_bits(image)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} (32 bits per pixel) has no defined white level; save it with 8 or 16 bits")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scale_gray_to_8_bits(image: Image.Image) -> np.ndarray:
    """Scale gray of over 8 bits to (h, w) uint8.

    Pillow clips at 255, so that nearly all pixels become white.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF, which may have 12 bits, or 0 for white
    white = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    gray = (np.asarray(image).astype(np.uint32) * 255 // white).astype(np.uint8)
    return 255 - gray if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else gray

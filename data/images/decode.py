"""Decode image files: upright RGB pixels, or an error with the reason."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

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

# TIFF
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
WHITE_IS_ZERO = 0


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
    path = Path(path)
    try:
        return _decode(_read_bytes(path), max_pixels)
    except FileNotFoundError:
        raise
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            raise
        raise ValueError(printable(f"cannot use the image {path}: {_get_reason(error)}")) from error


def _read_bytes(path: Path) -> bytes:
    """Read a file before it is decoded: an I/O error inside a decoder would look like a damaged image."""
    if not path.is_file():  # a pipe would block
        raise FileNotFoundError(printable(f"No image at {path}. Check the dataset's folder of images."))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"its {size:,} bytes are more than {MAX_BYTES:,}")
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    return content


def _decode(content: bytes, max_pixels: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of its own size limit and of unusual EXIF; neither matters here
        with _open_picture(content) as image:
            _check_size(image.size, max_pixels)
            if image.format == "PNG":
                check_png(content)
            if image.format == "TIFF":
                check_jpeg_parts(content, image)
            structure = read_structure(content) if image.format in ("JPEG", "MPO") else None
            if structure and structure.num_scans > MAX_SCANS:
                raise ValueError(f"its {structure.num_scans:,} scans are more than {MAX_SCANS}")
            image.load()  # before the EXIF tag is read: Pillow transposes a TIFF itself, and then removes the tag
            if structure:
                check_completeness(content, structure, image)
            transpose, rgb = _read_transpose(image), _to_rgb(image)
            return np.array(rgb if transpose is None else rgb.transpose(transpose))


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
    width, height = image.size
    is_turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


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

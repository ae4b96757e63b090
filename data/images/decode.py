"""Image files to pixels: whatever the file holds, what leaves here is upright RGB, or the reason why nothing does."""

from __future__ import annotations

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.io.files import TRANSIENT_ERRNOS
from data.text import printable

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 << 20  # of a file: 64 million pixels of six bytes, uncompressed, are 384 MB
ORIENTATION = 0x0112  # EXIF's tag, and what each of its values asks for
EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF's tags
WHITE_IS_ZERO = 0
# Pillow's decoders raise all of these on damaged files.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, AttributeError, struct.error)


DECODE_ERRORS += (KeyError, ArithmeticError, RuntimeError, Image.DecompressionBombError)


MAX_SCANS = 500  # of a JPEG; a usual progressive one has ten, and 31 bytes more make the decoder pass all pixels again
NEXT_MARKER, START_OF_SCAN, END_OF_IMAGE = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]"), 0xDA, 0xD9
MAX_ASPECT_RATIO = 50  # long side by short side; a thinner strip would shrink to nothing in a detector
# Named formats only: Pillow would otherwise try every plug-in, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image as `(h, w, 3)` uint8 RGB, turned the way its EXIF tag says.

    - The bytes say what a file is, its suffix does not. Of an animation or a stereo pair (MPO) the first frame counts.
    - Alpha, a transparent palette entry and an 8-bit color key are laid on white; keys of other depths are ignored.
    - 16-bit samples are scaled to 8 (65,535 becomes 255, within one level). 32-bit and float samples are refused.
    - CMYK is converted as (255 - C)(255 - K) / 255; a CMYK JPEG is taken for inverted, as Adobe writes it. Lab is
      converted by its definition (D50 to sRGB). Color profiles are not applied: detectors learn from pixels read so.
    - Size, bytes and scans are bounded before any decoding. Every pixel is decoded at full size: Pillow's `draft` would
      give others. A PNG must have its checksums; a JPEG has none, so a wrong byte inside one is not seen.

    Raises FileNotFoundError for a missing file, ValueError (file and reason) for one that cannot be used, OSError where
    the machine is at fault (a failing disk, too many open files).
    """
    path = Path(path)
    try:
        return _decoded(_bytes(path), max_pixels)
    except FileNotFoundError:
        raise
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
            raise
        raise ValueError(printable(f"cannot use the image {path}: {_reason(error)}")) from error


def _bytes(path: Path) -> bytes:
    """The file's bytes, read here: a disk that fails below a decoder would look like a broken picture."""
    if not path.is_file():  # nor a pipe, which would be waited for
        raise FileNotFoundError(printable(f"no image at {path}: check the dataset's images folder"))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"its {size:,} bytes are more than {MAX_BYTES:,}")
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    return content


def _decoded(content: bytes, max_pixels: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of its own bound and of odd EXIF: the result decides
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            readable = f"it cannot be read as any of {', '.join(FORMATS)}"
            raise ValueError(f"{readable}; its bytes begin with {content[:12]!r}") from error
        with image:
            _check_size(image.size, max_pixels)
            if image.format == "PNG":
                _check_sums(content)
            if image.format in ("JPEG", "MPO") and (scans := _scans(content)) > MAX_SCANS:
                raise ValueError(f"its {scans:,} scans are more than {MAX_SCANS}")
            image.load()  # before the EXIF is asked: Pillow turns a TIFF itself, and then takes the tag away
            turn, upright = _turn(image), _rgb(image)
            return np.array(upright if turn is None else upright.transpose(turn))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} is more than {max_pixels} pixels; shrink it or raise max_pixels")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(f"{width}x{height} is thinner than 1:{MAX_ASPECT_RATIO}; crop it")


def _check_sums(content: bytes) -> None:
    """Raise where a chunk of a PNG lacks its checksum: Pillow's decoder stops at the last pixel, before the sums."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.verify()


def _scans(content: bytes) -> int:
    """Scans of a JPEG: its segments are walked by their lengths, so that neither a thumbnail nor a tail is counted."""
    found, place = 0, 2
    while (marker := NEXT_MARKER.search(content, place)) and marker[0][1] != END_OF_IMAGE:
        found += marker[0][1] == START_OF_SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return found


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the EXIF tag asks for. The rest of the EXIF is not touched: much of it is malformed and orders nothing."""
    try:
        return EXIF_TRANSPOSES.get(image.getexif().get(ORIENTATION))
    except DECODE_ERRORS:
        return None


def _rgb(image: Image.Image) -> Image.Image:
    # A 16-bit gray PNG or PGM has had mode I;16 or I, from one release of Pillow to the next.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} (32 bits a pixel) has no agreed white; save it with 8 or 16 bits")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(h, w) uint8 of deep gray: Pillow's own conversion clips at 255 and turns nearly every such image white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF, which may hold 12 bits, or count down from white
    white = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    gray = (np.asarray(image).astype(np.uint32) * 255 // white).astype(np.uint8)
    return 255 - gray if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else gray

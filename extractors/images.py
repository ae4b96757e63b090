"""Image files to pixels: whatever the file holds, what leaves here is upright RGB."""

from __future__ import annotations

import errno
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112  # EXIF's tag, and what each of its values asks for
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's decoders raise all of these on damaged files.
FAULTS = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, AttributeError, struct.error)
FAULTS += (KeyError, OverflowError, Image.DecompressionBombError)
# Faults of the machine, not of the file: the run stops and is resumed; the image must not be set aside for them.
PASSING = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
MAX_RATIO = 50  # long side by short side; a thinner strip would shrink to nothing in a detector
# Named formats only: Pillow would otherwise try every plug-in, and one of them starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image as `(h, w, 3)` uint8 RGB, turned the way its EXIF tag says.

    Alpha is laid on white, 16-bit grey is scaled to 8 bits, palettes and CMYK are converted, and of an
    animation the first frame is taken. `max_pixels` is checked against the header, before any decoding.

    Raises FileNotFoundError for a missing file, ValueError (file and reason) for one that cannot be used, OSError where
    the machine is at fault (a failing disk, too many open files).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}: check the dataset's images folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of its own bound and of odd EXIF: the result decides
            with Image.open(path, formats=FORMATS) as image:
                _check_size(image.size, max_pixels)
                return np.array(_rgb(_upright(image)))
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        raise ValueError(f"cannot use the image {path}: {error}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} is more than {max_pixels} pixels; shrink it or raise max_pixels")
    if max(size) > MAX_RATIO * min(size):
        raise ValueError(f"{width}x{height} is thinner than 1:{MAX_RATIO}; crop it")


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as the EXIF tag says. The rest of the EXIF is not touched: much of it is malformed."""
    turn = TURNS.get(image.getexif().get(ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and turns nearly every 16-bit image white.
        return Image.fromarray((np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} (32 bits a pixel) has no agreed white; save it with 8 or 16 bits")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")

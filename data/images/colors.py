"""Convert a decoded image of any mode to RGB."""

import numpy as np
from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB: alpha is composed with white, and 16-bit samples are scaled to 8 bits.

    Raises:
        ValueError: Its samples have 32 bits, for which no white level is defined.
    """
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

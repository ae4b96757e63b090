"""Cut a region out of a decoded image. Used for queries of a region of a photo."""

import math
from collections.abc import Sequence

from data.images.decode import ReducedImage
from data.images.limits import MAX_ASPECT_RATIO

MIN_CROP_SIDE = 4  # pixels; the width or height of a smaller region shows nothing


def check_box(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Check that a box is a region of an image.

    Args:
        box: x1, y1, x2, y2 in pixels of the upright image; it is rounded to whole pixels.
        size: Width and height of the upright image, in pixels.

    Returns:
        The rounded box.

    Raises:
        ValueError: The box is not inside the image, is below `MIN_CROP_SIDE`, or is thinner than `MAX_ASPECT_RATIO`.
    """
    width, height = size
    shown = ",".join(f"{value:g}" for value in box)
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"The box {shown} must be four finite numbers x1,y1,x2,y2. Pass pixels of the image.")
    x1, y1, x2, y2 = (round(value) for value in box)
    sides = x2 - x1, y2 - y1
    if min(x1, y1) < 0 or x2 > width or y2 > height or min(sides) < MIN_CROP_SIDE:
        raise ValueError(
            f"The box {shown} is not a region of an image of {width}x{height} pixels. Pass x1,y1,x2,y2 inside of it, "
            f"with x2 and y2 at least {MIN_CROP_SIDE} above x1 and y1."
        )
    if max(sides) > MAX_ASPECT_RATIO * min(sides):
        raise ValueError(
            f"The box {shown} has {sides[0]}x{sides[1]} pixels, which is thinner than 1:{MAX_ASPECT_RATIO}. Pass a "
            "less narrow box."
        )
    return x1, y1, x2, y2


def crop_image(image: ReducedImage, box: Sequence[float]) -> ReducedImage:
    """Cut a region out of an image.

    Args:
        image: Image, which may have been reduced.
        box: x1, y1, x2, y2 in pixels of the upright image before it was reduced.

    Returns:
        The pixels of the region, as far as they were decoded, and the size of the box.

    Raises:
        ValueError: The box is not a region of the image.
    """
    x1, y1, x2, y2 = check_box(box, image.size)
    height, width = image.pixels.shape[:2]
    across, down = width / image.size[0], height / image.size[1]
    left, top = min(int(x1 * across), width - 1), min(int(y1 * down), height - 1)
    right, bottom = max(math.ceil(x2 * across), left + 1), max(math.ceil(y2 * down), top + 1)
    # A copy, so that the whole image is not kept in memory for a small region of it.
    return ReducedImage(image.pixels[top:bottom, left:right].copy(), (x2 - x1, y2 - y1))

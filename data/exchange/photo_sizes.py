"""Photo sizes of `data`."""

from pathlib import Path

import numpy as np

from data.config import ImportConfig
from data.formats.base import SourceRecord
from data.images.decode import DECODE_ERRORS, FORMATS, ORIENTATION

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _size(config: ImportConfig, name: str, record: SourceRecord) -> tuple[int, int] | None:
    """Width and height of an image whose format does not say them; None where nothing was given to tell them by."""
    if "size" in record.fields:
        return None
    if config.sizes == "boxes":
        boxes = record.fields.get("boxes", np.zeros(0))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError("--sizes boxes: it has no boxes that tell a size")
        right, bottom = np.ceil(boxes[:, 2:].max(0))
        return max(1, int(right)), max(1, int(bottom))
    return None if config.images is None else _size_of_photo(config.images, name)


def _size_of_photo(folder: Path, name: str) -> tuple[int, int]:
    """Width and height of `folder/name` (with a usual suffix, if it has none), turned upright, from its header."""
    from PIL import Image

    root = folder.resolve()
    tries = [folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)]
    path = next((p for p in tries if p.is_file() and p.resolve().is_relative_to(root)), None)
    if path is None:
        raise ValueError(f"no photograph {name!r} (nor {name}.jpg) in {folder}: is --ids right?")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)
    except DECODE_ERRORS as error:
        raise ValueError(f"cannot read the size of {path}: {error}") from error

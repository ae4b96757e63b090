"""Find image sizes for formats without them: in the image files, or from the boxes."""

from pathlib import Path

import numpy as np

from data.config import ImportConfig
from data.formats.base import SourceRecord
from data.images.decode import read_image_size
from data.images.folder import READABLE_SUFFIXES
from data.io.limits import MAX_SIDE


def find_image_size(config: ImportConfig, name: str, record: SourceRecord) -> tuple[int, int] | None:
    """Find width and height of an image, in pixels, where `config.sizes` says.

    Args:
        config: Source of the sizes, and the folder of the image files.
        name: Id of the image.
        record: Record of the image.

    Returns:
        None if the record has a size itself, or if there are no image files.

    Raises:
        ValueError: The image file is missing or damaged, or the record has no boxes.
    """
    if "size" in record.fields:
        return None
    if config.sizes == "boxes":
        boxes = record.fields.get("boxes", np.zeros(0))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError("--sizes boxes requires boxes, but the record has no valid ones")
        right, bottom = np.ceil(boxes[:, 2:].max(0))
        if max(right, bottom) > MAX_SIDE:
            raise ValueError(f"its boxes end at {right:g}, {bottom:g}, which is no size of an image")
        return max(1, int(right)), max(1, int(bottom))
    return None if config.images is None else _read_image_size(config.images, name)


def _read_image_size(folder: Path, name: str) -> tuple[int, int]:
    """Read width and height of `folder/name` from the header; EXIF orientation is applied.

    If there is no such file, the usual suffixes are tried.
    """
    root = folder.resolve()
    candidates = [folder / name, *(folder / f"{name}{suffix}" for suffix in READABLE_SUFFIXES)]
    path = next((p for p in candidates if p.is_file() and p.resolve().is_relative_to(root)), None)
    if path is None:
        raise ValueError(f"no image {name!r} (or {name}.jpg) in {folder}; check --id-template and --images")
    return read_image_size(path)

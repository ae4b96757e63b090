"""Check the fields of an imported image, and fill in those that its format does not have."""

from typing import Any, Literal

import numpy as np

from data.io.limits import MAX_IMAGE_ROWS, MAX_SIDE
from data.manifest.schema import REGION_FIELDS

# Values of the fields that a format does not have.
MISSING_VALUES = {"class_ids": -1, "scores": 0.0, "attr_ids": -1, "attr_scores": 0.0}
INT32 = np.iinfo("int32")


def fill_missing_fields(
    fields: dict[str, Any], size: tuple[int, int] | None, boxes: Literal["file", "image"]
) -> dict[str, Any]:
    """Return all fields of a region store; missing ones have the values of `MISSING_VALUES`.

    Args:
        fields: Fields of the format; `features` is required.
        size: Width and height in pixels, for formats without sizes.
        boxes: `image` gives every row the box of the whole image in formats without boxes.

    Raises:
        ValueError: The size or the boxes are missing.
    """
    rows = len(fields["features"])
    full = {**{name: np.full(rows, value) for name, value in MISSING_VALUES.items()}, **fields}
    if "size" not in full:
        if size is None:
            raise ValueError("the format has no image sizes; pass the images with --images, or pass --sizes boxes")
        full["size"] = np.array(size)
    if "boxes" not in full:
        if boxes != "image":
            raise ValueError("the format has no boxes; pass --boxes image to give every row the box of the whole image")
        full["boxes"] = np.tile(np.array([0, 0, *full["size"]], "float32"), (rows, 1))
    return full


def find_problem(fields: dict[str, Any], dtype: str, dim: int | None) -> str:
    """Find why the fields of an image cannot be stored; an empty text if nothing is wrong.

    Args:
        fields: All fields of a region store.
        dtype: Dtype of the features of the store.
        dim: Feature dimension of the store; None if it is still empty.
    """
    features, rows = fields["features"], len(fields["features"])
    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        return (
            f"its features are {features.dtype} {features.shape}; they must be numbers of shape (rows, d), both above 0"
        )
    if dim is not None and features.shape[1] != dim:
        return f"its features have dimension {features.shape[1]}, but those of earlier images have {dim}"
    if rows > MAX_IMAGE_ROWS:
        return f"it has {rows:,} rows; at most {MAX_IMAGE_ROWS:,} are read"
    shapes = {"boxes": (rows, 4), "size": (2,), **dict.fromkeys(MISSING_VALUES, (rows,))}
    for name, shape in shapes.items():
        if fields[name].shape != shape or fields[name].dtype.kind not in "fiu":
            return f"its {name} are {fields[name].dtype} {fields[name].shape}; they must be numbers of shape {shape}"
        if REGION_FIELDS[name].dtype == "int32" and not _fits_int32(fields[name]):
            return f"its {name} are not integers that fit into 32 bits: {fields[name].ravel()[:4].tolist()}"
    if not (fields["size"].min() >= 1 and fields["size"].max() <= MAX_SIDE):
        return f"its size is {'x'.join(str(side) for side in fields['size'])} pixels"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {"features": features.astype(dtype), **{n: fields[n].astype("f4") for n in ("boxes", "scores")}}
        stored["attr_scores"] = fields["attr_scores"].astype("f4")
    invalid = [name for name, values in stored.items() if not np.isfinite(values).all()]
    return f"its {' and '.join(invalid)} are not finite as {dtype}" if invalid else ""


def _fits_int32(values: np.ndarray) -> bool:
    is_integer = values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())
    return is_integer and bool(((values >= INT32.min) & (values <= INT32.max)).all())

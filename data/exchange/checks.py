"""Checks of `data`."""

from typing import Any, Literal

import numpy as np

from data.manifest.schema import REGION_FIELDS

MAX_SIDE = 2**31 - 1  # pixels
MISSING_VALUES = {
    "class_ids": -1,
    "scores": 0.0,
    "attr_ids": -1,
    "attr_scores": 0.0,
}  # what stands where a format has nothing
INT32 = np.iinfo("int32")


def fill_missing_fields(
    fields: dict[str, Any], size: tuple[int, int] | None, boxes: Literal["file", "image"]
) -> dict[str, Any]:
    """All fields of a region store: what the format lacks is filled in as `LACKING` says.

    Raises ValueError, saying what to give, if there is no size or there are no boxes.
    """
    rows = len(fields["features"])
    full = {**{name: np.full(rows, value) for name, value in MISSING_VALUES.items()}, **fields}
    if "size" not in full:
        if size is None:
            raise ValueError("the format has no image sizes: give the photographs with --images, or --sizes boxes")
        full["size"] = np.array(size)
    if "boxes" not in full:
        if boxes != "image":
            raise ValueError("the format has no boxes: import with --boxes whole to give every row the whole image")
        full["boxes"] = np.tile(np.array([0, 0, *full["size"]], "float32"), (rows, 1))
    return full


def find_problem(fields: dict[str, Any], dtype: str, dim: int | None) -> str:
    """Why the fields of one image cannot go into a store of this dtype and width, or an empty text."""
    features, rows = fields["features"], len(fields["features"])
    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        return f"its features are {features.dtype} {features.shape}; numbers of (rows, width), both above 0, are needed"
    if dim is not None and features.shape[1] != dim:
        return f"its features are {features.shape[1]} wide, those before it {dim}"
    shapes = {"boxes": (rows, 4), "size": (2,), **dict.fromkeys(MISSING_VALUES, (rows,))}
    for name, shape in shapes.items():
        if fields[name].shape != shape or fields[name].dtype.kind not in "fiu":
            return f"its {name} are {fields[name].dtype} {fields[name].shape}; numbers of {shape} are needed"
        if REGION_FIELDS[name].dtype == "int32" and not _fits(fields[name]):
            return f"its {name} are no whole numbers that fit into 32 bits"
    if not (fields["size"].min() >= 1 and fields["size"].max() <= MAX_SIDE):
        return f"its size is {'x'.join(str(side) for side in fields['size'])} pixels"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {"features": features.astype(dtype), **{n: fields[n].astype("f4") for n in ("boxes", "scores")}}
        stored["attr_scores"] = fields["attr_scores"].astype("f4")
    broken = [name for name, values in stored.items() if not np.isfinite(values).all()]
    return f"its {' and '.join(broken)} are not finite as {dtype}" if broken else ""


def _fits(values: np.ndarray) -> bool:
    whole = values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())
    return whole and bool(((values >= INT32.min) & (values <= INT32.max)).all())

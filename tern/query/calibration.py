"""Calibration queries of a model: held-out queries with their vectors and scores, for an index without captions.

Used to tune `nprobe`, to measure recall, and to say how likely a hit is right. Needs numpy and safetensors, not torch.

Shapes: n queries, e embedding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data.alignment import CODE_DTYPE, WEIGHT_DTYPE, RowVectors
from data.io import atomic_write, check_limit, parse_json, sha256_text
from tern.card import CALIBRATION

SCHEMA_VERSION = 2  # of the file; raise it when its names or their meaning change
READABLE_SCHEMAS = (1, SCHEMA_VERSION)  # a file of schema 1 has no row vectors
MAX_QUERIES = 800  # of one direction; more would make the shipped photo model larger than 12 MB
MAX_CALIBRATION_BYTES = 128 << 20  # images with 100 regions and row vectors of 1,024 numbers, as of TERAN, have 82 MB
MAX_HEADER_ENTRIES = 32
Kind = Literal["caption", "image"]
ROW_ARRAYS = ("codes", "weights", "lengths")  # fields of `RowVectors`
HEADER = "calibration"  # name of the entry of text: a JSON object
KINDS: tuple[Kind, ...] = ("caption", "image")


@dataclass(frozen=True)
class CalibrationQueries:
    """Held-out queries of one kind, in the order of `select_by_hash`."""

    texts: tuple[str, ...]
    """Caption of each query; for images, their ids."""
    vectors: np.ndarray
    """(n, e) float32, unit length."""
    relevant_scores: np.ndarray
    """(n,) float32, score of the relevant item; of the best one, if there are several. A score is the combined one for
    a model with row vectors, and else the cosine."""
    best_other_scores: np.ndarray
    """(n,) float32, score of the best item that is not relevant; -1 if there is none."""
    rows: RowVectors | None = None
    """Row vectors of the queries; None for a model without them."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Calibration:
    """Queries of both directions, and the items that they were scored against."""

    split: str
    """Split that the queries and the items are from."""
    num_images: int
    """Number of images that captions were scored against."""
    num_captions: int
    """Number of captions that images were scored against."""
    caption: CalibrationQueries
    """Captions that search images."""
    image: CalibrationQueries
    """Images that search captions."""

    def get(self, kind: Kind) -> CalibrationQueries:
        """Return the queries of a kind."""
        return self.caption if kind == "caption" else self.image


def select_by_hash(ids: Sequence[str], limit: int = MAX_QUERIES) -> list[int]:
    """Select the positions of at most `limit` ids, by the order of their hashes: the same ids on every machine."""
    return sorted(range(len(ids)), key=lambda position: sha256_text(ids[position]))[:limit]


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write the calibration of a model into its folder. Returns the file.

    Vectors are stored in float16, as in a vector store.
    """
    path = Path(folder) / CALIBRATION
    counts = {name: getattr(calibration, name) for name in ("split", "num_images", "num_captions")}
    texts = {f"{kind}_texts": calibration.get(kind).texts for kind in KINDS}
    # One entry of text: safetensors writes several in an order of its own, and equal calibrations have equal bytes.
    header = json.dumps({"schema": SCHEMA_VERSION, **counts, **texts}, ensure_ascii=False)
    arrays = {}
    for kind in KINDS:
        queries = calibration.get(kind)
        arrays[f"{kind}_vectors"] = queries.vectors.astype(np.float16)
        arrays[f"{kind}_relevant_scores"] = queries.relevant_scores.astype(np.float32)
        arrays[f"{kind}_best_other_scores"] = queries.best_other_scores.astype(np.float32)
        if queries.rows is not None:
            arrays |= {f"{kind}_row_{name}": getattr(queries.rows, name) for name in ROW_ARRAYS}
    with atomic_write(path) as temporary:
        save_file(arrays, temporary, {HEADER: header})
    return path


def read_calibration(folder: Path) -> Calibration | None:
    """Read the calibration of a model from its folder, or from a model package.

    Returns:
        The calibration, or None if the folder has none, as after a training.

    Raises:
        ValueError: The file is damaged, or another version of this program wrote it.
    """
    path = Path(folder) / CALIBRATION
    if not path.is_file():
        return None
    try:
        check_limit("it", path.stat().st_size, MAX_CALIBRATION_BYTES)
        with safe_open(path, framework="np") as file:
            header = parse_json((file.metadata() or {})[HEADER])
            if not isinstance(header, dict) or header.get("schema") not in READABLE_SCHEMAS:
                raise ValueError(f"this version of the program reads schema {SCHEMA_VERSION}")
            names = sorted(file.keys())
            check_limit("it", len(names), MAX_HEADER_ENTRIES, "arrays")
            arrays = {name: file.get_tensor(name) for name in names}
        caption, image = (_make_queries(kind, header[f"{kind}_texts"], arrays) for kind in KINDS)
        return Calibration(str(header["split"]), int(header["num_images"]), int(header["num_captions"]), caption, image)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a calibration of a model: {error}. Copy or download the model again."
        ) from error


def _make_queries(kind: Kind, texts: object, arrays: dict[str, np.ndarray]) -> CalibrationQueries:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{kind}_texts is not a list of texts")
    vectors, relevant, other = (
        np.asarray(arrays[f"{kind}_{name}"], np.float32) for name in ("vectors", "relevant_scores", "best_other_scores")
    )
    if vectors.ndim != 2 or {(len(texts),)} != {vectors.shape[:1], relevant.shape, other.shape}:
        raise ValueError(f"its {len(texts):,} {kind} queries have arrays of other shapes")
    if not all(np.isfinite(array).all() for array in (vectors, relevant, other)):
        raise ValueError(f"its {kind} queries have numbers that are not finite")
    return CalibrationQueries(tuple(texts), vectors, relevant, other, _make_rows(kind, len(texts), arrays))


def _make_rows(kind: Kind, count: int, arrays: dict[str, np.ndarray]) -> RowVectors | None:
    """Check and return the row vectors of some queries; None if the file has none."""
    names = [f"{kind}_row_{name}" for name in ROW_ARRAYS]
    if not arrays.keys() & set(names):
        return None
    codes, weights, lengths = (arrays[name] for name in names)
    shapes_fit = codes.ndim == 2 and weights.shape == codes.shape[:1] and lengths.shape == (count,)
    types_fit = (codes.dtype, weights.dtype, lengths.dtype) == (CODE_DTYPE, WEIGHT_DTYPE, np.dtype(np.int64))
    if not (shapes_fit and types_fit) or (lengths < 1).any() or int(lengths.sum()) != len(codes):
        raise ValueError(f"the row vectors of its {count:,} {kind} queries do not fit together")
    if not np.isfinite(weights).all():
        raise ValueError(f"the row vectors of its {kind} queries have weights that are not finite")
    return RowVectors(codes, weights, lengths)

"""Region features that someone else extracted: one .npz of flat rows and offsets, read into a region store.

The arrays: `filename` (n,) text, `offset` (n + 1,), `size` (n, 2) pixels as width and height, `boxes` (rows, 4) pixels,
`score` (rows,), `cls` (rows,), and one or more arrays of features (rows, d). Row 0 of an image may be the whole image.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.files import sha256_file

VERSION = 1  # to be raised when equal settings give other numbers: stores are named by it


class RegionFileConfig(BaseModel):
    """Which file, and which of its arrays stand side by side as the feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    features: tuple[str, ...] = Field(min_length=1)  # names of the arrays, joined in this order
    normalise: bool = True  # the rows of each array to unit length, so that none drowns the others


class RegionFile:
    """A file of regions, by image name; its arrays are read when rows are asked for.

    Raises FileNotFoundError, or ValueError naming the array at fault.
    """

    def __init__(self, config: RegionFileConfig):
        if not config.path.is_file():
            raise FileNotFoundError(f"No file of regions at {config.path}; set `regions_file.path` in the plan.")
        self.config = config

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        needed = ("filename", "offset", "size", "boxes", "score", "cls", *self.config.features)
        try:
            with np.load(self.config.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in needed}
        except (KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(f"{self.config.path} cannot be read as a file of regions: {error}") from error
        _check(self.config, arrays)
        return arrays

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self._arrays["filename"])}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers: the bytes of the file, and which arrays are taken."""
        settings = self.config.model_dump(exclude={"path"}, mode="json")
        return {"extractor": "file", "version": VERSION, "file_sha256": sha256_file(self.config.path), **settings}

    classes: tuple[str, ...] = ()  # the file does not say what its numbers name
    attributes: tuple[str, ...] = ()

    def rows(self, names: list[str]) -> Iterator[dict[str, Any] | str]:
        """For each image its fields of a region store, or the reason why there are none."""
        for name in names:
            yield self._row(self._place[name]) if name in self._place else f"it is not in {self.config.path}"

    def _row(self, number: int) -> dict[str, Any]:
        a = self._arrays
        rows = slice(a["offset"][number], a["offset"][number + 1])
        parts = [a[name][rows].astype("float32") for name in self.config.features]
        if self.config.normalise:
            parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6) for part in parts]
        features = np.concatenate(parts, axis=1)
        scores = np.nan_to_num(a["score"][rows], nan=1.0)  # the whole image has no score of its own
        fields = {"features": features, "boxes": a["boxes"][rows], "class_ids": a["cls"][rows], "scores": scores}
        none = {"attr_ids": np.full(len(scores), -1), "attr_scores": np.zeros(len(scores))}
        return {**fields, **none, "size": a["size"][number]}


def _check(config: RegionFileConfig, a: dict[str, np.ndarray]) -> None:
    """Raise ValueError naming the arrays whose shapes do not belong together."""
    images = len(a["filename"])
    rows = int(a["offset"][-1]) if len(a["offset"]) else -1
    shapes = {"offset": (images + 1,), "size": (images, 2), "boxes": (rows, 4), "score": (rows,), "cls": (rows,)}
    wrong = [f"{name} is {a[name].shape}, not {shape}" for name, shape in shapes.items() if a[name].shape != shape]
    wrong += [f"{name} is {a[name].shape}" for name in config.features if a[name].shape[:1] != (rows,)]
    if len(a["offset"]) and (a["offset"][0] != 0 or (np.diff(a["offset"]) < 0).any()):
        wrong.append("offset does not rise from 0")
    if wrong:
        raise ValueError(f"{config.path}: {'; '.join(wrong)}.")

"""Region file of `data`."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from data.config import RegionFileConfig
from data.formats.arrays import Npz
from data.formats.flat_rows import PER_IMAGE_ARRAYS, ROW_ARRAYS, _check, concat_features, fill_nan_scores
from data.io.digests import sha256_file

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it


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
        try:
            with Npz(self.config.path) as archive:
                arrays = {
                    name: archive.read(name) for name in (*PER_IMAGE_ARRAYS, *ROW_ARRAYS, *self.config.feature_arrays)
                }
        except ValueError as error:
            raise ValueError(f"{self.config.path} cannot be read as a file of regions: {error}") from error
        shapes = {name: values.shape for name, values in arrays.items()}
        _check(self.config.path, arrays["offset"], shapes, self.config.feature_arrays)
        return arrays

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self._arrays["filename"])}

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the numbers: the bytes of the file, and which arrays are taken."""
        settings = self.config.model_dump(exclude={"path"}, mode="json")
        recipe = {"extractor": "file", "version": VERSION, "file_sha256": sha256_file(self.config.path), **settings}
        return {**recipe, "classes": list(self.classes), "attributes": list(self.attributes)}

    classes: tuple[str, ...] = ()  # the file does not say what its numbers name
    attributes: tuple[str, ...] = ()

    def rows(self, names: list[str]) -> Iterator[dict[str, Any] | str]:
        """For each image its fields of a region store, or the reason why there are none."""
        for name in names:
            yield self._row(self._place[name]) if name in self._place else f"it is not in {self.config.path}"

    def _row(self, number: int) -> dict[str, Any]:
        a = self._arrays
        rows = slice(a["offset"][number], a["offset"][number + 1])
        features = concat_features([a[name][rows] for name in self.config.feature_arrays], self.config.normalize)
        none = {"attr_ids": np.full(len(features), -1), "attr_scores": np.zeros(len(features))}
        given = {field: a[name][rows] for name, field in ROW_ARRAYS.items()}
        return {
            "features": features,
            **none,
            **given,
            "scores": fill_nan_scores(given["scores"]),
            "size": a["size"][number],
        }

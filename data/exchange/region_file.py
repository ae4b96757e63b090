"""Region features of a plan from one .npz file instead of an extractor."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from data.config import RegionFileConfig
from data.exchange.checks import fill_missing_fields, find_problem
from data.exchange.plausibility import Plausibility
from data.formats.arrays import check_image_shape
from data.formats.flat_rows import FLAT, PER_IMAGE_ARRAYS, ROW_ARRAYS, check_shapes, concat_features, fill_nan_scores
from data.formats.names import parse_id
from data.formats.npz import Npz
from data.io.digests import sha256_file
from data.manifest.schema import FIELDS

log = logging.getLogger(__name__)
VERSION = 3  # raise it when equal settings give other numbers: it is part of the recipe


class RegionFile:
    """Regions of a file by image name; the arrays are read when the first rows are needed.

    Values that the file cannot mean, such as boxes between 0 and 1, are logged, each kind once.

    Args:
        config: The file and its feature arrays.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Arrays are missing or do not fit each other; raised when they are read.
    """

    def __init__(self, config: RegionFileConfig):
        if not config.path.is_file():
            raise FileNotFoundError(f"No file of regions at {config.path}. In the plan, set `regions_file.path`.")
        self.config, self._plausibility = config, Plausibility()

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
        check_shapes(self.config.path, arrays["offset"], shapes, self.config.feature_arrays)
        return arrays

    @cached_property
    def _numbers_by_name(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self._arrays["filename"]):
            with suppress(ValueError):  # not an id, so that no image has it
                numbers.setdefault(parse_id(name), []).append(number)
        return numbers

    @property
    def recipe(self) -> dict[str, Any]:
        """Return what determines the numbers: the hash of the file, and its feature arrays."""
        settings = self.config.model_dump(exclude={"path"}, mode="json")
        recipe = {"extractor": "file", "version": VERSION, "file_sha256": sha256_file(self.config.path), **settings}
        return {**recipe, "classes": list(self.classes), "attributes": list(self.attributes)}

    classes: tuple[str, ...] = ()
    """Names of the class ids: unknown, the file has none."""
    attributes: tuple[str, ...] = ()
    """Names of the attribute ids: unknown, the file has none."""

    def rows(self, names: list[str]) -> Iterator[dict[str, Any] | str]:
        """Yield, for each image, its fields of a region store, or the reason why it has none."""
        return map(self._get_fields, names)

    def _get_fields(self, name: str) -> dict[str, Any] | str:
        numbers = self._numbers_by_name.get(name, [])
        if len(numbers) != 1:
            entries = " and ".join(map(str, numbers))
            return (
                f"{self.config.path} has it twice, as entries {entries}"
                if numbers
                else f"it is not in {self.config.path}"
            )
        try:
            fields = fill_missing_fields(self._read_entry(numbers[0]), None, "file")
            problem = find_problem(fields, FIELDS["regions"]["features"].dtype, dim=None)
        except ValueError as error:
            problem = str(error)
        entry = f"{self.config.path} entry {numbers[0]}"
        if problem:
            return f"{entry}: {problem}"
        for warning in self._plausibility.check(name, entry, fields, FLAT.name):
            log.warning(f"{entry}: {warning}")
        return fields

    def _read_entry(self, number: int) -> dict[str, np.ndarray]:
        arrays = self._arrays
        rows = slice(arrays["offset"][number], arrays["offset"][number + 1])
        for name in (*ROW_ARRAYS, *self.config.feature_arrays):
            check_image_shape("it", arrays[name][rows].shape, arrays[name].dtype)
        fields = {field: arrays[name][rows] for name, field in ROW_ARRAYS.items()}
        features = concat_features([arrays[name][rows] for name in self.config.feature_arrays], self.config.normalize)
        return {
            **fields,
            "features": features,
            "scores": fill_nan_scores(fields["scores"]),
            "size": arrays["size"][number],
        }

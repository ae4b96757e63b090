"""Convert the records of the sources of an import to items of a store: ids, missing fields, checks and hashes."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ImportConfig
from data.exchange.checks import fill_missing_fields, find_problem
from data.exchange.import_recipe import get_feature_dtype
from data.exchange.photo_sizes import find_image_size
from data.exchange.plausibility import Plausibility
from data.formats.base import Format, InvalidSourceRecord, SourceRecord
from data.formats.names import Template
from data.io.digests import sha256_text
from data.manifest.schema import REGION_FIELDS, Item
from data.store.columns import Columns
from data.text import escape_invalid_text

RECORDS_FOR_DIM = 3  # first records of which the majority decides the feature dimension
ItemRow = dict[str, Any] | str  # the fields of an image, or why it is invalid


class ItemConverter:
    """Converts records to items; an invalid record becomes an item with the reason.

    Args:
        config: Sources and settings.
        formats: Format of each source.
        dim: Feature dimension of the store; None if it is still empty.
    """

    def __init__(self, config: ImportConfig, formats: list[Format], dim: int | None):
        self._config, self._formats, self._dim = config, formats, dim
        self._dtype, self._rename = get_feature_dtype(config), Template(config.id_template)
        self.location_by_id: dict[str, str] = {}
        """Location of each valid id so far."""
        self.plausibility = Plausibility()

    def iter_items(self) -> Iterator[tuple[Item, ItemRow]]:
        """Yield one item per record; the id of an invalid item is the name of its record."""
        for kind, source in zip(self._formats, self._config.sources, strict=True):
            records = kind.read(source, self._config.options)
            if self._dim is None:
                first = list(islice(records, RECORDS_FOR_DIM))
                self._dim, records = _find_common_dim(first), chain(first, records)
            for record in records:
                yield self._convert(self._name_source(source, record), kind)

    def _convert(self, record: SourceRecord | InvalidSourceRecord, kind: Format) -> tuple[Item, ItemRow]:
        name = record.id
        try:
            if isinstance(record, InvalidSourceRecord):
                name = self._rename_if_possible(record)
                raise ValueError(record.reason)
            name = self._rename(record.id, record.split)
            if name in self.location_by_id:
                raise ValueError(f"the id {name!r} is a duplicate of {self.location_by_id[name]}")
            row = fill_missing_fields(record.fields, find_image_size(self._config, name, record), self._config.boxes)
            if problem := find_problem(row, self._dtype, self._dim):
                raise ValueError(problem)
        except ValueError as error:
            record_name = escape_invalid_text(name_record(name, record.location))
            reason = escape_invalid_text(str(error))
            return Item(record_name, sha256_text(reason)), reason
        self.location_by_id[name], self._dim = record.location, row["features"].shape[1]
        self.plausibility.check(record.id, record.location, row, kind.name)
        row = {key: np.ascontiguousarray(row[key], self._get_stored_dtype(key)) for key in REGION_FIELDS}
        return Item(name, _hash_row(row)), row

    def _name_source(
        self, source: Path, record: SourceRecord | InvalidSourceRecord
    ) -> SourceRecord | InvalidSourceRecord:
        """Add the source to the location of a record, if there are several and their names do not tell them apart."""
        names = [path.name for path in self._config.sources]
        if len(names) == 1 or not (source.is_dir() or names.count(source.name) > 1):
            return record
        return replace(record, location=f"{source}: {record.location}")

    def _rename_if_possible(self, record: InvalidSourceRecord) -> str:
        """Return the new id of an invalid record, so that a plan can report why the image is missing."""
        try:
            return self._rename(record.id, record.split)
        except ValueError:
            return record.id

    def _get_stored_dtype(self, field: str) -> str:
        return self._dtype if field == "features" else REGION_FIELDS[field].dtype


def name_record(image_id: str, location: str) -> str:
    """Return the name of an invalid record in the manifest."""
    return f"{image_id} ({location})" if image_id else location


def _find_common_dim(records: list[SourceRecord | InvalidSourceRecord]) -> int | None:
    features = [record.fields["features"] for record in records if isinstance(record, SourceRecord)]
    dims = Counter(values.shape[1] for values in features if values.ndim == 2 and values.size)
    return dims.most_common(1)[0][0] if dims else None


def _hash_row(row: Columns) -> str:
    hasher = hashlib.sha256()
    for name, values in row.items():
        hasher.update(f"{name} {values.dtype.str} {values.shape};".encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()

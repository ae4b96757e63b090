"""Row vectors of an export: three .npy files beside the vectors, whose hash is in the footer of the metadata."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.alignment import CODE_DTYPE, WEIGHT_DTYPE, RowVectors
from data.formats import map_npy
from index.collection import Collection
from index.exchange.export import ALIGNMENT_WEIGHT, ROW_SUFFIXES, ROWS_SHA256
from index.exchange.metadata_rows import ImportedRows


def add_row_vectors(
    collection: Collection, array: Path, table: Path, metadata: ImportedRows
) -> tuple[Collection, float]:
    """Add the row vectors of an export to its collection; return the weight of the alignment score too.

    Without row vectors the collection stays as it is, and the weight is 0.

    Args:
        array: KIND.npy.
        table: KIND.parquet.
        metadata: The rows of that table.

    Raises:
        ValueError: As `read_row_vectors`.
    """
    row_vectors, weight = read_row_vectors(array, table)
    if row_vectors is None:
        return collection, weight
    position_by_id = {row.id: position for position, row in enumerate(metadata.rows) if row is not None}
    rows = row_vectors
    return replace(collection, rows=lambda ids: rows.select([position_by_id[name] for name in ids])), weight


def read_row_vectors(array: Path, table: Path) -> tuple[RowVectors | None, float]:
    """Map the row vectors of an export, and return them with the weight of the alignment score; None without any.

    Args:
        array: KIND.npy; the files of the row vectors are beside it.
        table: KIND.parquet, whose footer says whether there are some.

    Raises:
        ValueError: A file is missing, has another form, or is of another export.
    """
    footer = pq.read_metadata(table).metadata or {}
    expected, weight = footer.get(ROWS_SHA256.encode()), footer.get(ALIGNMENT_WEIGHT.encode())
    if expected is None or weight is None:
        return None, 0.0
    paths = [array.with_suffix(f".{suffix}") for suffix in ROW_SUFFIXES]
    try:
        codes, weights, lengths = (map_npy(path) for path in paths)
        forms = [(values.dtype, values.ndim) for values in (codes, weights, lengths)]
        rows = RowVectors(codes, weights, lengths)
        is_valid = forms == [(CODE_DTYPE, 2), (WEIGHT_DTYPE, 1), (np.dtype(np.int64), 1)]
        is_valid = is_valid and rows.digest == expected.decode()
        alignment_weight = float(weight)
    except (ValueError, OSError) as error:
        raise ValueError(f"The row vectors beside {array} cannot be read: {error}. Export again.") from error
    if not is_valid:
        raise ValueError(f"The row vectors beside {array} and {table} are of different exports. Export both again.")
    return rows, alignment_weight

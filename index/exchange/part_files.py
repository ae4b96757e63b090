"""Files of a folder of vectors: which file of metadata belongs to which file of vectors."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.formats import map_npy
from index.exchange.export import VECTORS_SHA256
from index.exchange.metadata_rows import count_rows

BLOCK_ROWS = 16_384  # vectors that are hashed at a time


def list_files(folder: Path, suffix: str) -> list[Path]:
    """List files in the order of the numbers in their names, so that part 10 follows part 9; no hidden files."""

    def sort_key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    # Hidden files are those of the system, such as `._part_0.npy` of macOS.
    return sorted((path for path in folder.glob(f"*.{suffix}") if path.name[0] != "."), key=sort_key)


def map_vectors(path: Path) -> np.ndarray:
    """Map a .npy file of (n, d) floats read-only.

    Raises:
        ValueError: It is not such a file.
    """
    try:
        array = map_npy(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error
    if array.dtype.kind == "f" and array.size == 0:  # a part without rows, saved as (0,) or (0, d)
        return array.reshape(0, array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"{path} has an array {array.dtype} of shape {array.shape}; vectors are (n, d) floats. Save it again."
        )
    return array


@dataclass(frozen=True)
class ArrayReader:
    """Reads vectors by id from consecutive arrays."""

    arrays: Sequence[np.ndarray]
    position_by_id: Mapping[str, int]
    normalize: bool

    def read(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (m, d) float32 vectors of some ids."""
        starts = np.cumsum([0, *map(len, self.arrays)])
        positions = np.array([self.position_by_id[name] for name in ids])
        array_numbers = np.searchsorted(starts, positions, side="right") - 1
        vectors = np.empty((len(positions), self.arrays[0].shape[1]), np.float32)
        for i in np.unique(array_numbers):
            selected = array_numbers == i
            vectors[selected] = self.arrays[i][positions[selected] - starts[i]]
        if not self.normalize:
            return vectors
        return scale_to_unit(vectors)


def scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Scale (n, d) vectors to unit length; one without a direction becomes one of NaN, which the import lists."""
    with np.errstate(all="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check_export(array: Path, table: Path) -> None:
    """Check that KIND.npy and KIND.parquet are of one export, if the footer of the Parquet file has the hash.

    Raises:
        ValueError: They are of different exports, for example because the second one was interrupted.
    """
    expected = (pq.read_metadata(table).metadata or {}).get(VECTORS_SHA256.encode())
    if expected is None:
        return
    vectors, hasher = map_vectors(array), hashlib.sha256()
    for start in range(0, len(vectors), BLOCK_ROWS):
        hasher.update(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]).data)
    if hasher.hexdigest() != expected.decode():
        raise ValueError(f"{array} and {table} are of different exports. Export both again.")


def check_pairs(arrays: Sequence[Path], tables: Sequence[Path]) -> None:
    """Check that files of vectors and of metadata belong together: by the numbers in their names, and by their counts.

    Numbers may differ by a constant. Names without a number pair in their order.

    Raises:
        ValueError: A file has no partner, or the counts of a pair differ.
    """
    numbers, table_numbers = ([_find_number(path) for path in paths] for paths in (arrays, tables))
    if len(arrays) != len(tables) or not _are_parallel(numbers, table_numbers):
        problems = [f"{path} has no metadata" for path in _find_unpaired(arrays, numbers, table_numbers)]
        problems += [f"{path} has no vectors" for path in _find_unpaired(tables, table_numbers, numbers)]
        raise ValueError(
            f"{arrays[0].parent} has {len(arrays)} files of vectors, but there are {len(tables)} metadata files, and "
            f"by their names they do not belong together: {', and '.join(problems[:3])}. Complete the folder."
        )
    for array, table in zip(arrays, tables, strict=True):
        num_vectors, num_rows = len(map_vectors(array)), count_rows(table)
        if num_vectors != num_rows:
            raise ValueError(f"{array} has {num_vectors} vectors, but {table} has {num_rows} rows. Export both again.")


def _find_number(path: Path) -> int | None:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else None


def _are_parallel(numbers: Sequence[int | None], table_numbers: Sequence[int | None]) -> bool:
    """Return whether the numbers differ by a constant; files without a number pair in their order."""
    pairs = list(zip(numbers, table_numbers, strict=True))
    differences = {table - array for array, table in pairs if array is not None and table is not None}
    return any(number is None for pair in pairs for number in pair) or len(differences) <= 1


def _find_unpaired(paths: Sequence[Path], numbers: Sequence[int | None], others: Sequence[int | None]) -> list[Path]:
    """Find the files whose number no other file has; of files without or of one number, those that are too many."""
    unpaired = [path for path, number in zip(paths, numbers, strict=True) if number not in others]
    return list(paths[len(others) :]) if None in (*numbers, *others) or not unpaired else unpaired

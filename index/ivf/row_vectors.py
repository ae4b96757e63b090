"""Row vectors on disk under sorted keys, for the second stage of a search.

A file is four .npy arrays, one after the other: keys (n,) int64, ascending; codes (m, k) int8; starts (n + 1,) int64;
weights (m,) float16. The rows of item i are those from starts[i] to starts[i + 1]. A file without items has k = 0.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.alignment import CODE_DTYPE, WEIGHT_DTYPE, RowVectors, expand_ranges
from index.ivf.sharded_ivf import BLOCK
from index.ivf.vectors import KEY_DTYPE, NO_KEYS, is_in_sorted, map_array
from index.versions.objects import RECOVERY_HINT


def write_row_vectors(path: Path, keys: np.ndarray, blocks: Iterable[RowVectors]) -> None:
    """Write keys and the row vectors of their items into one file.

    In memory are one block, and the weights and lengths of all items: about a fiftieth of the codes.

    Args:
        path: File to write.
        keys: (n,) integers, ascending.
        blocks: Row vectors of the n items, in the order of the keys.
    """
    weights, lengths = [np.empty(0, WEIGHT_DTYPE)], [np.zeros(1, np.int64)]
    num_rows = dim = 0
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(keys, KEY_DTYPE), allow_pickle=False)
        header = file.tell()
        write_codes_header(file, 0, 0)
        start = file.tell()
        for block in blocks:
            file.write(np.ascontiguousarray(block.codes, CODE_DTYPE).tobytes())
            weights.append(np.ascontiguousarray(block.weights, WEIGHT_DTYPE))
            lengths.append(np.asarray(block.lengths, np.int64))
            num_rows, dim = num_rows + len(block.codes), block.dim
        np.lib.format.write_array(file, np.cumsum(np.concatenate(lengths)).astype(KEY_DTYPE), allow_pickle=False)
        np.lib.format.write_array(file, np.concatenate(weights), allow_pickle=False)
        file.seek(header)  # how many rows there are is known after the last block
        write_codes_header(file, num_rows, dim)
        if file.tell() != start:
            raise AssertionError("numpy writes headers of one length for any number of rows")


def write_codes_header(file: BinaryIO, num_rows: int, dim: int) -> None:
    """Write the .npy header of codes (num_rows, dim) int8."""
    header = {"descr": np.lib.format.dtype_to_descr(CODE_DTYPE), "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)


class ShardRowVectors:
    """The row vectors of one shard, mapped.

    Raises:
        ValueError: The file has another form; the message names it.
    """

    def __init__(self, path: Path):
        try:
            with open(path, "rb") as file:
                self.keys = map_array(path, file, KEY_DTYPE, 1)
                self.codes = map_array(path, file, CODE_DTYPE, 2)
                self._starts = map_array(path, file, KEY_DTYPE, 1)
                self._weights = map_array(path, file, WEIGHT_DTYPE, 1)
                is_complete = file.tell() == path.stat().st_size
        except ValueError as error:
            raise ValueError(f"{path} is not a file of row vectors: {error} {RECOVERY_HINT}") from error
        shape = (len(self.keys) + 1, len(self.codes))
        ends = self._starts[:1].tolist() + self._starts[-1:].tolist()
        has_rows = bool((np.diff(self._starts) > 0).all())
        if (len(self._starts), len(self._weights)) != shape or ends != [0, shape[1]] or not (has_rows and is_complete):
            raise ValueError(f"The arrays of row vectors in {path} do not fit each other. {RECOVERY_HINT}")

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Look up (m,) keys.

        Returns:
            (m,) bool whether this shard has the key; and of those that it has, first rows and numbers of rows.
        """
        if not len(self.keys):
            return np.zeros(len(keys), bool), keys[:0], keys[:0]
        positions = self.keys.searchsorted(keys)
        is_found = self.keys.take(positions, mode="clip") == keys
        positions = positions[is_found]
        starts = self._starts[positions]
        return is_found, starts, self._starts[positions + 1] - starts

    def blocks(self, deleted_keys: np.ndarray = NO_KEYS, size: int = BLOCK) -> Iterator[RowVectors]:
        """Yield the row vectors of the items that are not deleted, in the order of the keys."""
        keys = self.keys[~is_in_sorted(self.keys, deleted_keys)]
        for start in range(0, len(keys), size):
            _, starts, lengths = self.find(keys[start : start + size])
            yield RowVectors(*self.read(expand_ranges(starts, lengths)), lengths)

    def count_rows(self, deleted_keys: np.ndarray = NO_KEYS) -> int:
        """Return the number of rows of the items that are not deleted."""
        return int(self.find(self.keys[~is_in_sorted(self.keys, deleted_keys)])[2].sum())

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes (m, k) and weights (m,) of (m,) rows."""
        return self.codes.take(rows, axis=0), self._weights.take(rows)


class MappedRowVectors:
    """The row vectors of all shards of a collection; safe to share between threads.

    Args:
        paths: Files of the shards.
        dim: Numbers per row vector, k.

    Raises:
        ValueError: A file has another form, or another k.
    """

    def __init__(self, paths: Sequence[Path], dim: int):
        self.shards, self.dim = [ShardRowVectors(path) for path in paths], dim
        for shard, path in zip(self.shards, paths, strict=True):
            if len(shard.keys) and shard.codes.shape[1] != dim:
                numbers = f"{shard.codes.shape[1]} numbers per row vector"
                raise ValueError(f"{path} has {numbers}, but the manifest lists {dim}. {RECOVERY_HINT}")

    def get(self, keys: np.ndarray) -> RowVectors:
        """Return the row vectors of (m,) int64 keys, in their order.

        Raises:
            KeyError: No shard has a key.
        """
        lengths, missing = np.zeros(len(keys), np.int64), np.arange(len(keys))
        parts: list[tuple[ShardRowVectors, np.ndarray, np.ndarray]] = []
        for shard in self.shards:
            is_found, starts, counts = shard.find(keys[missing])
            positions = missing[is_found]
            lengths[positions] = counts
            parts.append((shard, positions, starts))
            if not len(missing := missing[~is_found]):
                break
        if len(missing):
            raise KeyError(f"no row vector has the key {int(keys[missing[0]])}: its shards do not belong together")
        num_rows, first_rows = int(lengths.sum()), np.cumsum(lengths) - lengths
        codes, weights = np.empty((num_rows, self.dim), CODE_DTYPE), np.empty(num_rows, WEIGHT_DTYPE)
        for shard, positions, starts in parts:
            if not len(positions):  # a shard without items has no codes either
                continue
            counts = lengths[positions]
            targets = expand_ranges(first_rows[positions], counts)
            codes[targets], weights[targets] = shard.read(expand_ranges(starts, counts))
        return RowVectors(codes, weights, lengths)

"""Audit of a version: every object has its hash, and all parts of a shard describe the same rows."""

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from index.ivf.row_vectors import ShardRowVectors
from index.ivf.sharded_ivf import read_list_keys
from index.ivf.vectors import is_in_sorted
from index.metadata.lookup import ShardLookup
from index.metadata.schema import Row, compute_key
from index.search.index import Index
from index.search.open_collection import OpenCollection
from index.versions.folder import check_objects
from index.versions.manifest import ShardManifest
from index.versions.objects import object_path

SAMPLE_ROWS = 64  # rows of a shard whose keys are recomputed


def audit_version(
    index: Index, sample_rows: int = SAMPLE_ROWS, verified_shards: Sequence[ShardManifest] = ()
) -> dict[str, str]:
    """Check the files of an open version.

    Checked are the hashes of all objects; that inverted lists, vectors, lookup, Parquet and row vectors of a shard
    have the same keys; that no key occurs twice; that the keys of `sample_rows` rows per shard are the hashes of their
    rows; and the counts in the manifest. If an object is damaged, nothing else is checked.

    Args:
        sample_rows: Number of rows per shard, evenly spread.
        verified_shards: Shards that passed before: only their keys are read.

    Returns:
        By check, the problem; empty if there is none.
    """
    try:
        check_objects(index.root, index.manifest, verified_shards=verified_shards)
    except (ValueError, OSError) as error:
        return {"objects": str(error)}  # the content of a damaged file means nothing
    return {"objects": ""} | {
        f"{kind} rows": _find_row_problem(index, kind, sample_rows, verified_shards) for kind in index.kinds
    }


def _find_row_problem(index: Index, kind: str, sample_rows: int, verified_shards: Sequence[ShardManifest]) -> str:
    collection = index.collection(kind)
    for number, (shard, vectors) in enumerate(zip(collection.manifest.shards, collection.vectors.shards, strict=True)):
        if shard not in verified_shards:
            lookup = collection.rows.lookups[number]
            problem = _find_key_mismatch(index, shard, lookup, vectors.keys)
            problem = problem or _find_wrong_key(index, shard, lookup, sample_rows)
            if problem:
                return f"shard {number}: {problem}"
    return _check_counts(collection)


def _find_key_mismatch(index: Index, shard: ShardManifest, lookup: ShardLookup, keys: np.ndarray) -> str:
    """Describe the first part of a shard whose keys differ from those of its vectors; "" if none does."""
    if len(keys) != shard.rows or not (np.diff(keys) > 0).all():
        return f"its vectors have {len(keys)} keys; the manifest lists {shard.rows}, ascending and unique"
    table = pq.read_table(object_path(index.root, shard.metadata), columns=["key"])
    keys_by_part = {
        "inverted lists": read_list_keys(object_path(index.root, shard.inverted_lists)),
        "lookup": np.sort(lookup.keys()),
        "metadata": np.sort(table["key"].to_numpy()),
    }
    if shard.row_vectors is not None:
        keys_by_part["row vectors"] = ShardRowVectors(object_path(index.root, shard.row_vectors)).keys
    for part, part_keys in keys_by_part.items():
        if not np.array_equal(part_keys, keys):
            different = np.setxor1d(part_keys, keys)
            example = f", for example {different[0]}" if len(different) else ""
            return f"the keys of its {part} ({len(part_keys)}) and of its vectors ({len(keys)}) differ{example}"
    return ""


def _find_wrong_key(index: Index, shard: ShardManifest, lookup: ShardLookup, sample_rows: int) -> str:
    """Describe the first sampled row of a shard whose key is not its hash; "" if there is none."""
    table = pq.read_table(object_path(index.root, shard.metadata))
    if not table.num_rows:
        return ""
    positions = np.unique(np.linspace(0, table.num_rows - 1, sample_rows).astype(np.int64))
    rows = [Row(**values) for values in table.take(positions).to_pylist()]
    lookup_rows = lookup.by_key([row.key for row in rows if row.key is not None])
    return _describe_wrong_key("metadata", rows) or _describe_wrong_key("lookup", list(lookup_rows.values()))


def _describe_wrong_key(part: str, rows: Sequence[Row]) -> str:
    wrong = [row for row in rows if compute_key(row) != row.key]
    return (
        f"in its {part} {wrong[0].id!r} has the key of another row: the file is shuffled or replaced" if wrong else ""
    )


def _check_counts(collection: OpenCollection) -> str:
    """Describe a key with two rows, or counts that differ from the manifest; "" if all is well."""
    keys = np.sort(np.concatenate([shard.keys for shard in collection.vectors.shards]))
    counts = collection.manifest.counts
    if len(duplicates := keys[1:][np.diff(keys) == 0]):
        return f"key {duplicates[0]} has more than one row"
    deleted = int(is_in_sorted(collection.deleted_keys, keys).sum())
    live = len(keys) - deleted
    if (live, deleted) != (counts.live, counts.deleted):
        return f"{live} live and {deleted} deleted rows; the manifest lists {counts.live} and {counts.deleted}"
    return ""

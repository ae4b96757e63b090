"""Whether a version's files belong together: every byte is what was written, and all parts stand for the same rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from index.ivf.sharded_ivf import read_list_keys
from index.ivf.vectors import is_in_sorted
from index.metadata.lookup import ShardLookup
from index.metadata.schema import compute_key
from index.search.index import Index, OpenCollection
from index.versions.folder import check_objects
from index.versions.manifest import Manifest, ShardManifest
from index.versions.objects import object_path

SAMPLE_ROWS = 64  # rows of a shard whose keys are computed anew


def audit_version(
    index: Index, sample: int = SAMPLE_ROWS, verified_shards: Sequence[ShardManifest] = ()
) -> dict[str, str]:
    """{what was looked at: what is wrong with it, or nothing} of an open version.

    Hashes of all objects; that lists, whole vectors, look-up and Parquet of every shard have the same keys, and no key
    is there twice; that the keys of `sample` rows of each shard, evenly spread, are hashes of what look-up and Parquet
    say of them; that the manifest's counts are true. Shards in `known` were found good before, and are not read again
    but for their keys. Where an object is damaged nothing else is looked at.
    """
    try:
        check_objects(index.root, Manifest.model_validate(index.manifest), known=verified_shards)
    except (ValueError, OSError) as error:
        return {"objects": str(error)}  # what is in a damaged file says nothing
    return {"objects": ""} | {f"{kind} rows": _rows(index, kind, sample, verified_shards) for kind in index.kinds}


def _rows(index: Index, kind: str, sample: int, known: Sequence[ShardManifest]) -> str:
    opened = index.collection(kind)
    for number, (shard, vectors) in enumerate(zip(opened.manifest.shards, opened.vectors.shards, strict=True)):
        if shard not in known:
            lookup = opened.rows.lookups[number]
            fault = _apart(index, shard, lookup, vectors.keys) or _said(index, shard, lookup, sample)
            if fault:
                return f"shard {number}: {fault}"
    return _counted(opened)


def _apart(index: Index, shard: ShardManifest, lookup: ShardLookup, keys: np.ndarray) -> str:
    """The first part of a shard that has other keys than its vectors."""
    if len(keys) != shard.rows or not (np.diff(keys) > 0).all():
        return f"its vectors have {len(keys)} keys, the manifest says {shard.rows}, ascending, each once"
    table = pq.read_table(object_path(index.root, shard.metadata), columns=["key"])
    parts = {
        "lists": read_list_keys(object_path(index.root, shard.inverted_lists)),
        "look-up": np.sort(lookup.keys()),
        "metadata": np.sort(table["key"].to_numpy()),
    }
    for what, some in parts.items():
        if not np.array_equal(some, keys):
            different = np.setxor1d(some, keys)
            example = f", such as {different[0]}" if len(different) else ""
            return f"the keys of its {what} ({len(some)}) and its vectors ({len(keys)}) differ{example}"
    return ""


def _said(index: Index, shard: ShardManifest, lookup: ShardLookup, sample: int) -> str:
    """The first row that stands under the key of another."""
    record = pq.read_table(object_path(index.root, shard.metadata))
    if not record.num_rows:
        return ""
    places = np.unique(np.linspace(0, record.num_rows - 1, sample).astype(np.int64))
    rows = record.take(places).to_pylist()
    told = [lookup.query("SELECT * FROM items WHERE key = ?", [row["key"]])[0] for row in rows]
    return _shuffled("metadata", rows) or _shuffled("look-up", told)


def _shuffled(what: str, rows: Sequence[Mapping[str, Any]]) -> str:
    wrong = [row for row in rows if compute_key(row) != row["key"]]
    told = "stands under the key of another row: the file is shuffled or foreign"
    return f"in its {what} {wrong[0]['id']!r} {told}" if wrong else ""


def _counted(opened: OpenCollection) -> str:
    """Whether a key is in two shards, and whether the manifest's counts are true."""
    held = np.sort(np.concatenate([shard.keys for shard in opened.vectors.shards]))
    counts = opened.manifest.counts
    if len(twice := held[1:][np.diff(held) == 0]):
        return f"key {twice[0]} has more than one row"
    dead = int(is_in_sorted(opened.deleted_keys, held).sum())
    if (len(held) - dead, dead) != (counts.live, counts.deleted):
        return f"{dead} rows dead of {len(held)}, the manifest says {counts.live} live and {counts.deleted} dead"
    return ""

"""Whether a version's files belong together: every byte is what was written, and all parts stand for the same rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from index.manifest import Manifest, check_objects
from index.metadata import key_of
from index.objects import object_path
from index.search import Index, Opened

SAMPLE = 64  # rows of a shard whose keys are computed anew


def audit(index: Index, sample: int = SAMPLE) -> dict[str, str]:
    """{what was looked at: what is wrong with it, or nothing} of an open version.

    Hashes of all objects; that lists, whole vectors, look-up and Parquet of a collection have the same keys, each once,
    the last three in every shard; that the keys of `sample` rows of each shard, evenly spread, are hashes of what
    look-up and Parquet say of them; that the manifest's counts are true.
    """
    found = {"objects": ""}
    try:
        check_objects(index.root, Manifest.model_validate(index.manifest))
    except (ValueError, OSError) as error:
        found["objects"] = str(error)
    return found | {f"{kind} rows": _rows(index, kind) or _said(index, kind, sample) for kind in index.kinds}


def _said(index: Index, kind: str, sample: int) -> str:
    """The first row that stands under the key of another."""
    opened = index.collection(kind)
    for number, (shard, lookup) in enumerate(zip(opened.about.shards, opened.rows.lookups, strict=True)):
        record = pq.read_table(object_path(index.root, shard.metadata))
        if not record.num_rows:
            continue
        places = np.unique(np.linspace(0, record.num_rows - 1, sample).astype(np.int64))
        rows = record.take(places).to_pylist()
        told = [lookup.ask("SELECT * FROM items WHERE key = ?", [row["key"]])[0] for row in rows]
        for what, some in (("metadata", rows), ("look-up", told)):
            if fault := _shuffled(some):
                return f"{what} of shard {number}: {fault}"
    return ""


def _shuffled(rows: Sequence[Mapping[str, Any]]) -> str:
    wrong = [row for row in rows if key_of(row) != row["key"]]
    return f"{wrong[0]['id']!r} stands under the key of another row; the file is shuffled or foreign" if wrong else ""


def _rows(index: Index, kind: str) -> str:
    opened = index.collection(kind)
    tables = [
        pq.read_table(object_path(index.root, shard.metadata), columns=["key"])["key"].to_numpy()
        for shard in opened.about.shards
    ]
    said = [lookup.keys() for lookup in opened.rows.lookups]
    keys = {
        "lists": opened.lists.keys(),
        "vectors": np.sort(np.concatenate([shard.keys for shard in opened.vectors.shards])),
        "lookup": np.sort(np.concatenate(said)),
        "metadata": np.sort(np.concatenate(tables)),
    }
    held, counts = keys["lookup"], opened.about.counts
    if len(twice := held[1:][np.diff(held) == 0]):
        return f"key {twice[0]} has more than one row"
    for what, some in keys.items():
        if not np.array_equal(some, held):
            different = np.setxor1d(some, held)
            example = f", such as {different[0]}" if len(different) else ""
            return f"{what} have {len(some)} keys, the look-up has {len(held)}: {len(different)} differ{example}"
    if fault := _misplaced(opened, said, tables):
        return fault
    dead = int(np.isin(opened.lists.dead, held, assume_unique=True).sum())
    if (len(held) - dead, dead) != (counts.live, counts.dead):
        return f"{dead} rows dead of {len(held)}, the manifest says {counts.live} live and {counts.dead} dead"
    return ""


def _misplaced(opened: Opened, said: Sequence[np.ndarray], tables: Sequence[np.ndarray]) -> str:
    """The first shard whose look-up or Parquet has other keys than its vectors, where all shards together agree."""
    for number, (vectors, shard) in enumerate(zip(opened.vectors.shards, opened.about.shards, strict=True)):
        for what, keys in (("look-up", said[number]), ("metadata", tables[number])):
            if not np.array_equal(np.sort(keys), vectors.keys):
                return f"{what} of shard {number} is that of another shard: its keys differ from those of the vectors"
        if len(vectors.keys) != shard.rows:
            return f"shard {number} has {len(vectors.keys)} rows, the manifest says {shard.rows}"
    return ""

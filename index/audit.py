"""Whether a version's files belong together: every byte is what was written, and all parts stand for the same rows."""

import numpy as np
import pyarrow.parquet as pq

from index.manifest import Manifest, check_objects
from index.objects import object_path
from index.search import Index


def audit(index: Index) -> dict[str, str]:
    """{what was looked at: what is wrong with it, or nothing} of an open version.

    Hashes of all objects; that lists, whole vectors, look-up and Parquet of a collection have the same keys, each once;
    that no dead key is without a row, and that the manifest's counts are true.
    """
    found = {"objects": ""}
    try:
        check_objects(index.root, Manifest.model_validate(index.manifest))
    except (ValueError, OSError) as error:
        found["objects"] = str(error)
    return found | {f"{kind} rows": _rows(index, kind) for kind in index.kinds}


def _rows(index: Index, kind: str) -> str:
    opened = index.collection(kind)
    tables = [
        pq.read_table(object_path(index.root, shard.metadata), columns=["key"])["key"].to_numpy()
        for shard in opened.about.shards
    ]
    keys = {
        "lists": opened.lists.keys(),
        "vectors": np.sort(np.concatenate([shard.keys for shard in opened.vectors.shards])),
        "lookup": np.sort(opened.rows.every()),
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
    dead = int(np.isin(opened.lists.dead, held, assume_unique=True).sum())
    if (len(held) - dead, dead) != (counts.live, counts.dead):
        return f"{dead} rows dead of {len(held)}, the manifest says {counts.live} live and {counts.dead} dead"
    return ""

"""Deleted keys of `index`."""

from pathlib import Path

import numpy as np

from index.versions.manifest import DeletedRows
from index.versions.objects import Staging, check_object


def write_deleted_keys(staging: Staging, name: str, keys: np.ndarray) -> DeletedRows | None:
    """Keys that shards hold and that are never answered, as an object; None for none."""
    keys = np.unique(np.asarray(keys, "<i8"))
    if not len(keys):
        return None

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.lib.format.write_array(file, keys, version=(1, 0), allow_pickle=False)

    return DeletedRows(rows=len(keys), keys=staging.add_object(name, write))


def read_deleted_keys(root: Path, dead: DeletedRows | None) -> np.ndarray:
    """(m,) int64 keys, sorted. Raises ValueError if the object is damaged."""
    if dead is None:
        return np.empty(0, np.int64)
    path = check_object(root, dead.keys, "dead keys")
    return np.load(path, allow_pickle=False).astype(np.int64)

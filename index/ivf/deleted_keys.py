"""Write and read the object (an immutable file) with the keys of the deleted rows of a collection."""

from pathlib import Path

import numpy as np

from index.versions.manifest import DeletedRows
from index.versions.objects import Staging, check_object


def write_deleted_keys(staging: Staging, name: str, keys: np.ndarray) -> DeletedRows | None:
    """Store the keys of rows that are in shards but are never returned.

    Args:
        staging: Unfinished work that the object is added to.
        name: Name of the object while it is written, such as "image/deleted".
        keys: (n,) integer keys, in any order; duplicates are dropped.

    Returns:
        The number of keys and the object, or None without keys.
    """
    keys = np.unique(np.asarray(keys, "<i8"))
    if not len(keys):
        return None

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.lib.format.write_array(file, keys, version=(1, 0), allow_pickle=False)

    return DeletedRows(rows=len(keys), keys=staging.add_object(name, write))


def read_deleted_keys(root: Path, deleted: DeletedRows | None) -> np.ndarray:
    """Return the (m,) int64 keys, sorted.

    Raises:
        FileNotFoundError, ValueError: The object is missing or damaged.
    """
    if deleted is None:
        return np.empty(0, np.int64)
    path = check_object(root, deleted.keys, "deleted keys")
    return np.load(path, allow_pickle=False).astype(np.int64)

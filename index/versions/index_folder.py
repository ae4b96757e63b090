"""Recognize the folder of an index, and lock it: no command writes or deletes in a folder that is something else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.io import read_json, remove_stale_temporaries, write_lock
from index.versions.folder import list_used_numbers, manifest_path, read_current_or_none
from index.versions.objects import list_objects, list_staged

OWN_NAMES = re.compile(  # of everything that an index folder can have, except for the files below objects and staging
    r"CURRENT|PINNED|versions|versions/v\d{8,18}(\.json)?|tags|tags/[A-Za-z][A-Za-z0-9._-]{0,63}\.json|objects|staging"
    r"|events\.jsonl|verified\.json|\.writer|(versions/|tags/)?\.[^/]*\.tmp(\.json)?"
)


def is_index(root: Path) -> bool:
    """Return whether a folder has a pointer CURRENT, or a manifest of this or of an older schema."""
    if read_current_or_none(root) is not None:
        return True
    return any(_has_manifest(manifest_path(root, number)) for number in list_used_numbers(root))


def _has_manifest(path: Path) -> bool:
    """Return whether a file, or the folder that schema 1 had in its place, has the content of a manifest."""
    try:
        content = read_json(path if path.is_file() else path.with_suffix("") / "manifest.json")
    except (ValueError, OSError):
        return False
    return isinstance(content, dict) and "schema" in content


def check_index_target(root: Path) -> None:
    """Check that an index may be written to a folder: it is an index, or nobody else has files in it.

    Raises:
        ValueError: The folder holds something else; the message names it.
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder of an index. Pass another folder.")
    if not root.is_dir() or is_index(root):
        return
    names = [
        path.relative_to(root).as_posix() for path in (*root.iterdir(), *root.glob("versions/*"), *root.glob("tags/*"))
    ]
    foreign = [name for name in sorted(names) if not OWN_NAMES.fullmatch(name)]
    foreign += [path.relative_to(root).as_posix() for path in list_objects(root).foreign + list_staged(root).foreign]
    if foreign:
        raise ValueError(
            f"{root} is not an index, and it holds other files, such as {foreign[0]!r}. Pass a new or an empty folder."
        )


def check_is_index(root: Path) -> None:
    """Raise FileNotFoundError if a folder is not an index."""
    if not is_index(root):
        raise FileNotFoundError(
            f"{root} is not an index: no index is published in it (no CURRENT), and it has no readable "
            "versions/v*.json. Pass the folder of an index, or run `tern index` first."
        )


@contextmanager
def index_write_lock(root: Path, create: bool = False) -> Iterator[None]:
    """Hold the write lock of an index; it ends with the process.

    Nothing is written before the folder is recognized.

    Args:
        create: Make the folder an index if it does not exist or holds nothing else.

    Raises:
        FileNotFoundError: The folder is not an index, and `create` is false.
        ValueError: The folder holds something else, or another process holds the lock; the message names it.
    """
    root = Path(root)
    if create:
        check_index_target(root)
        root.mkdir(parents=True, exist_ok=True)
    else:
        check_is_index(root)
    with write_lock(root):
        for folder in (root, root / "tags", root / "versions"):
            remove_stale_temporaries(folder)
        yield

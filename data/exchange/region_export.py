"""A region store out into the formats of other software: streaming, one image in memory."""

from collections.abc import Callable
from pathlib import Path

from data.formats.base import ExportRows, Format, export_marker
from data.formats.catalogue import get_format
from data.formats.names import Template
from data.io.files import read_json, remove_stale_temporaries, write_json
from data.store.store import Store

MARKER = ".tern-export.json"  # in a folder of a file an image: whose export it is, so that it can be resumed
Progress = Callable[[int], None]


def export_regions(
    folder: Path,
    target: Path,
    format: str,
    id_template: str = "{id}",
    image_ids: list[str] | None = None,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> int:
    """Write a region store, or of it the images `only`, as `format` to `target`. Returns the number of images.

    A single file is whole or absent. Of a folder with a file an image each file is, and the same export goes on where
    it was stopped. What is there already is not written over, unless `force`.

    Raises ValueError or FileExistsError: no region store, ids that do not fit, a target that is there.
    """
    kind, store = get_format(format), Store(folder)
    if store.kind != "regions":
        raise ValueError(f"{folder} holds {store.kind}; only regions are exported")
    names = store.ids if image_ids is None else image_ids
    store.lengths(names)  # names the first that is not there
    if not names:
        raise ValueError(f"{folder} has no images to export")
    rows = ExportRows(store, names, _renamed(names, id_template), progress)
    if kind.is_folder:
        _into_folder(kind, target, rows, id_template, force)
    else:
        _into_file(kind, target, rows, force)
    return len(rows)


def _renamed(names: list[str], template: str) -> list[str]:
    rename, seen = Template(template), dict[str, str]()
    for name in names:
        new = rename(name)
        if seen.get(new) == name:
            raise ValueError(f"{name!r} stands twice in --list: name each image once")
        if new in seen:
            raise ValueError(f"--ids {template!r} calls both {seen[new]!r} and {name!r} {new!r}; give another template")
        seen[new] = name
    return list(seen)


def _free(paths: list[Path], force: bool) -> None:
    for path in paths:
        if path.is_dir() or (path.exists() and not force):
            raise FileExistsError(f"{path} is there already: choose another --to, or say --force to write over it")


def _into_file(kind: Format, target: Path, rows: ExportRows, force: bool) -> None:
    """Write a file and what lies beside it; one that was killed is begun again, one that is refused changes nothing."""
    mark = export_marker(target)
    _free([target] if mark.exists() else [target, *kind.sidecar_files(target)], force)
    remove_stale_temporaries(target.parent)
    kind.write(target, rows, force)
    mark.unlink(missing_ok=True)


def _into_folder(kind: Format, target: Path, rows: ExportRows, ids: str, force: bool) -> None:
    """Write a file an image; those that are there already from this very export are kept, unless `force`.

    Raises FileExistsError if the folder holds anything else.
    """
    mark, path = {"format": kind.name, "ids": ids, "content": rows.store.content_digest(rows.names)}, target / MARKER
    same = path.is_file() and read_json(path) == mark
    if target.exists() and not same and not force and any(target.iterdir()):
        raise FileExistsError(f"{target} holds other files: choose an empty folder, or say --force to write over it")
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        remove_stale_temporaries(folder)
    # Killed while it writes over others, a run leaves files of both: none of them may be taken for done.
    write_json(path, {**mark, "over": True} if force else mark)
    kind.write(target, rows, force)
    write_json(path, mark)

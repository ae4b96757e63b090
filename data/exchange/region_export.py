"""Export a region store to a format of other software, with one image in memory."""

from collections.abc import Callable
from pathlib import Path

from data.formats.base import ExportRows, Format, export_marker
from data.formats.catalogue import get_format
from data.formats.names import Template
from data.io.files import read_json, remove_stale_temporaries, write_json
from data.store.intact import iter_intact_columns
from data.store.store import Store

MARKER = ".tern-export.json"  # in a folder with one file per image: identifies the export, so that it can be resumed
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
    """Export a region store.

    Every file is written atomically. An interrupted export to a folder is resumed by the next one.

    Args:
        folder: Folder of the store.
        target: File, or folder with one file per image, to write.
        format: Name of the format.
        id_template: Template of the ids in the file, see `Template`.
        image_ids: Images to export, in this order; None exports all.
        force: Whether to overwrite existing files.
        progress: Called after each image with 1.

    Returns:
        The number of images.

    Raises:
        ValueError: The store has no regions, rows are damaged, or ids or rows do not fit the format.
        FileExistsError: The target exists.
    """
    kind, store = get_format(format), Store(folder)
    if store.kind != "regions":
        raise ValueError(f"{folder} holds {store.kind}. Pass the folder of a region store.")
    names = store.ids if image_ids is None else image_ids
    store.lengths(names)  # raises for an id that is not in the store
    if not names:
        raise ValueError(f"{folder} has no images to export. Pass other ids, or run extraction first.")
    rows = ExportRows(store, names, _rename_ids(names, id_template), progress)
    for _ in iter_intact_columns(store, names):  # before the first file is written
        pass
    if kind.is_folder:
        _export_to_folder(kind, target, rows, id_template, force)
    else:
        _export_to_file(kind, target, rows, force)
    return len(rows)


def _rename_ids(names: list[str], template: str) -> list[str]:
    rename, name_by_new_id = Template(template), dict[str, str]()
    for name in names:
        new_id = rename(name)
        if name_by_new_id.get(new_id) == name:
            raise ValueError(f"{name!r} is twice in --ids-file. List each image once.")
        if new_id in name_by_new_id:
            raise ValueError(
                f"--id-template {template!r} gives both {name_by_new_id[new_id]!r} and {name!r} the id {new_id!r}. "
                "Pass another template."
            )
        name_by_new_id[new_id] = name
    return list(name_by_new_id)


def _check_absent(paths: list[Path], force: bool) -> None:
    for path in paths:
        if path.is_dir() or (path.exists() and not force):
            raise FileExistsError(f"{path} already exists. Pass another --output, or --force to overwrite it.")


def _export_to_file(kind: Format, target: Path, rows: ExportRows, force: bool) -> None:
    """Write a file and its sidecar files; an interrupted export restarts."""
    marker = export_marker(target)
    _check_absent([target] if marker.exists() else [target, *kind.sidecar_files(target)], force)
    remove_stale_temporaries(target.parent)
    kind.write(target, rows, force)
    marker.unlink(missing_ok=True)


def _export_to_folder(kind: Format, target: Path, rows: ExportRows, ids: str, force: bool) -> None:
    """Write one file per image; files of the same export are kept unless `force`."""
    export = {"format": kind.name, "ids": ids, "content": rows.store.content_digest(rows.names)}
    path = target / MARKER
    is_same_export = path.is_file() and read_json(path) == export
    if target.exists() and not is_same_export and not force and any(target.iterdir()):
        raise FileExistsError(f"{target} has other files. Pass an empty folder, or --force to overwrite them.")
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        remove_stale_temporaries(folder)
    # An export that is interrupted while it overwrites files leaves files of both exports; none counts as finished.
    write_json(path, {**export, "over": True} if force else export)
    kind.write(target, rows, force)
    write_json(path, export)

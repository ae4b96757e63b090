"""Export a region store to a format of other software, with one image in memory."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from data.formats.base import ExportRows, Format
from data.formats.catalogue import get_format
from data.formats.names import Template, safe_join
from data.io.files import check_output_file, is_within, read_json, remove_stale_temporaries, write_json
from data.io.together import restore_together
from data.store.intact import iter_intact_columns
from data.store.store import Store

MARKER = ".tern-export.json"  # in a folder with one file per image: identifies the export, so that it can be resumed
STAGED = ".tern-export"  # subfolder in which the files of an export are written that overwrites others
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

    Every file is written atomically, and the old files stay until all new ones are complete. An interrupted export to a
    folder is resumed by the next one.

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
    if is_within(target, folder):
        raise ValueError(f"{target} is in the store {folder}, whose files it could replace. Pass another --output.")
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


def _export_to_file(kind: Format, target: Path, rows: ExportRows, force: bool) -> None:
    """Write a file and its sidecar files together: the old ones stay until the new ones are complete."""
    paths = [*kind.sidecar_files(target), target]
    for path in paths:
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder. Pass another --output.")
    restore_together(paths)
    for path in paths:
        check_output_file(path, force)
    remove_stale_temporaries(target.parent, paths)
    kind.write(target, rows)


def _export_to_folder(kind: Format, target: Path, rows: ExportRows, ids: str, force: bool) -> None:
    """Write one file per image; an interrupted export of the same images is continued."""
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(f"{target} is a file, but {kind.name} has one file per image. Pass a folder as --output.")
    export = {"format": kind.name, "ids": ids, "content": rows.store.content_digest(rows.names)}
    path = target / MARKER
    is_same_export = path.is_file() and read_json(path) == export
    has_other_files = target.is_dir() and any(entry.name != STAGED for entry in target.iterdir())
    if has_other_files and not is_same_export and not force:
        raise FileExistsError(f"{target} has other files. Pass an empty folder, or --force to overwrite them.")
    if has_other_files and force:
        _replace_files(kind, target, rows, export)
        return
    write_json(path, export)
    _write_folder(kind, target, rows)


def _write_folder(kind: Format, folder: Path, rows: ExportRows) -> None:
    """Write the missing files of an export into a folder that belongs to it."""
    for subfolder in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        remove_stale_temporaries(subfolder)
    for name in rows.ids:  # before the first file is written
        safe_join(folder, name, ".npz")
    kind.write(folder, rows)


def _replace_files(kind: Format, target: Path, rows: ExportRows, export: Mapping[str, str]) -> None:
    """Write all files of an export into a subfolder, then move them over the files of the target.

    A full disk or an error leaves the target as it was. Other files in the target are kept.
    """
    staged = target / STAGED
    if staged.is_dir() and (staged / MARKER).is_file() and read_json(staged / MARKER) != export:
        shutil.rmtree(staged)  # of an interrupted export of something else
    write_json(staged / MARKER, export)
    try:
        _write_folder(kind, staged, rows)
        files = [path for path in sorted(staged.rglob("*")) if path.is_file() and path != staged / MARKER]
        destinations = [target / path.relative_to(staged) for path in files]
        for path in destinations:
            if path.is_dir() or not path.parent.resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{path} is a folder, or it would leave {target} through a link. Remove it.")
    except Exception:  # any error; after Ctrl-C or a kill the same export resumes from the folder
        shutil.rmtree(staged)
        raise
    # An export that is killed while it moves files leaves files of both; the folder does not count as finished.
    write_json(target / MARKER, {**export, "over": True})
    for path, destination in zip(files, destinations, strict=True):
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, destination)
    write_json(target / MARKER, export)
    shutil.rmtree(staged)

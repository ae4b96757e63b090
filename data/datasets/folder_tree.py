"""Reader of a folder without a captions file: all of its images, with what tables and files beside them say."""

import posixpath

from data.config import DatasetConfig
from data.datasets.captions_file import RowsByImage
from data.datasets.companions import find_companions, list_companions, read_companions
from data.datasets.entry import Annotations, Entry, make_invalid_entry
from data.datasets.folder_scan import make_selection, scan_dataset_folder
from data.datasets.rows import iter_rows
from data.datasets.shards import read_shards
from data.images.folder import ImageFolder


def read_folder_tree(config: DatasetConfig) -> Annotations:
    """Read all images of a folder. Captions and columns come from tables of metadata, and from files beside images.

    Raises:
        ValueError: The folder cannot be read, or has no image; or a table of metadata would lose what its author means.
    """
    folder = scan_dataset_folder(config)
    if reason := folder.problems.get("."):
        raise ValueError(f"{config.images}: {reason}. Change its permissions, or set `images` to another folder.")
    entries = {name: Entry(name, name, None) for name in folder.images}
    invalid = [*_read_tables(config, folder, entries), *_read_companions(config, folder, entries)]
    members, notes = read_shards(config, folder, make_selection(config))
    members = [entry for entry in members if not _merge_known(entry, entries)]
    if not entries and not members and not folder.problems:
        selecting = "Correct `include`, `exclude` or `max_depth`, or set" if folder.num_excluded else "Set"
        raise ValueError(
            f"{config.images} has no image: it holds {folder.describe_files()}. {selecting} `images` to the folder of "
            "the images."
        )
    invalid += [make_invalid_entry(name, text) for name, text in folder.problems.items()]
    notes += [f"captions and columns of {name}" for name in folder.tables]
    return Annotations([*entries.values(), *members, *invalid], (*notes, *folder.describe_left_out(config.images)))


def _merge_known(entry: Entry, entries: dict[str, Entry]) -> bool:
    """Add an entry to that of the same path, such as a file that a row of Parquet names; return False without one."""
    known = None if entry.problem else entries.get(entry.relative)
    if known is None:
        return False
    known.split = entry.split if known.split is None else known.split
    known.add_texts(entry.texts)
    known.add_values(entry.values)
    return True


def _read_tables(config: DatasetConfig, folder: ImageFolder, entries: dict[str, Entry]) -> list[Entry]:
    """Add the rows of the tables of metadata to the entries of their images; return the invalid rows."""
    _check_one_table_per_folder(config, folder.tables)
    invalid: list[Entry] = []
    for table in folder.tables:
        reading = RowsByImage(config.images.absolute(), posixpath.dirname(table), is_metadata=True)
        try:
            for row in iter_rows(config.images / table, is_metadata=True):
                reading.add(row)
        except ValueError as error:
            text = str(error).rstrip(".")
            raise ValueError(f"{text}. To leave the table out, exclude its path, {table}.") from error
        for name, found in reading.make_entries().items():
            known = entries.setdefault(name, found)
            if known is not found:
                known.id, known.split, known.problem = found.id, found.split, found.problem
                known.add_texts(found.texts)
                known.add_values(found.values)
        invalid += reading.invalid
    return invalid


def _check_one_table_per_folder(config: DatasetConfig, tables: list[str]) -> None:
    table_by_folder: dict[str, str] = {}
    for table in tables:
        other = table_by_folder.setdefault(posixpath.dirname(table), table)
        if other != table:
            raise ValueError(
                f"{config.images} has two tables of metadata for one folder, {other} and {table}. Remove one, or "
                f'leave it out with `exclude = ["{table}"]`.'
            )


def _read_companions(config: DatasetConfig, folder: ImageFolder, entries: dict[str, Entry]) -> list[Entry]:
    """Add the text and JSON files beside images to their entries; return the invalid ones. Others are ignored."""
    names_by_stem, invalid, used = find_companions(folder.companions), list[Entry](), set[str]()
    for name in folder.problems:
        used.update(list_companions(name, names_by_stem))
    for name, entry in entries.items():
        if companions := list_companions(name, names_by_stem):
            used.update(companions)
            invalid += read_companions(config.images, entry, companions)
    for name in folder.companions:
        if name not in used:
            folder.ignore(name)
    return invalid

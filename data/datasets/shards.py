"""Entries of the images in tar shards and Parquet files, which are read where they are."""

import posixpath
from collections.abc import Iterator

from data.config import DatasetConfig
from data.datasets.companions import add_companion
from data.datasets.entry import Entry, make_invalid_entry
from data.images.folder import ImageFolder, Selection
from data.images.shards.members import ShardList, split_member_name
from data.images.sources import read_shard_list
from data.io.files import TRANSIENT_ERRNOS


def read_shards(config: DatasetConfig, folder: ImageFolder, selection: Selection) -> tuple[list[Entry], list[str]]:
    """Read the lists of all shards of a folder.

    Args:
        config: Settings of the dataset.
        folder: What is in its folder; a Parquet file without images is counted as ignored.
        selection: Which images are taken; the path of a member is that of its shard and its name.

    Returns:
        The entries, in the order of the shards, and notes on what was found.
    """
    entries, notes = list[Entry](), list[str]()
    num_shards, num_images, num_others = 0, 0, 0
    for name in sorted(folder.shards):
        try:
            shard = read_shard_list(config.images / name)
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            entries.append(make_invalid_entry(name, f"the shard cannot be read: {error.strerror}"))
            continue
        except ValueError as error:
            entries.append(make_invalid_entry(name, str(error)))
            continue
        if shard is None:
            folder.ignore(name)
            continue
        first = len(entries)
        entries.extend(_iter_entries(name, shard, selection))
        num_shards, num_others = num_shards + 1, num_others + shard.num_ignored
        num_images += sum(not entry.problem for entry in entries[first:])
    if num_shards:
        others = f"; other members: {num_others:,}" if num_others else ""
        notes.append(f"{num_images:,} images in {num_shards:,} tar and Parquet shards{others}")
    return entries, notes


def _iter_entries(name: str, shard: ShardList, selection: Selection) -> Iterator[Entry]:
    """Yield an entry for each image of a shard, with its captions and columns, and for each problem."""
    prefix, suffix = posixpath.splitext(name)
    is_tar = suffix.lower() == ".tar"
    texts: dict[str, list[tuple[str, str]]] = {}
    for text_name, text in shard.texts:
        texts.setdefault(_get_key(text_name, is_tar), []).append((text_name, text))
    for image in shard.images:
        path = f"{name}/{image}"
        if not selection.takes(name, path):
            continue
        key = _get_key(image, is_tar) if is_tar else image
        entry = Entry(f"{prefix}/{key}", path, None)
        for text_name, text in sorted(texts.get(key, ()), reverse=True):  # .txt before .json, as in a folder
            if problem := add_companion(entry, text_name, text.encode("utf-8", "surrogateescape")):
                yield make_invalid_entry(f"{name}/{text_name}", problem)
        yield entry
    for link, fields in shard.links:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
        entry = Entry(path, path, None)
        add_companion(entry, f"{link}.json", fields.encode())
        yield entry
    for member, reason in shard.problems:
        yield make_invalid_entry(f"{name}/{member}", reason)


def _get_key(name: str, is_tar: bool) -> str:
    """Return what the files of one image have in common; a Parquet row has JSON alone."""
    if not is_tar:
        return name.removesuffix(".json")
    key, extension = split_member_name(name)
    return posixpath.splitext(name)[0] if "." in extension else key

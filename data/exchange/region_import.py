"""Region features of others into a store: streaming, one shard in memory."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ImportConfig
from data.exchange.checks import fill_missing_fields, find_problem
from data.exchange.photo_sizes import _size
from data.formats.base import Format, InvalidSourceRecord
from data.formats.catalogue import detect_format, get_format
from data.formats.names import Template
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import open_or_create_store, read_store_manifest
from data.manifest.schema import REGION_FIELDS, Item, ShardPlan
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, write_next_manifest
from data.text import escape_invalid_text, read_lines

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
MAX_VOCABULARY_BYTES = 16 << 20
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ImportResult:
    """What came of an import."""

    folder: Path
    formats: tuple[str, ...]  # of the sources
    num_imported: int  # read now and stored
    num_unchanged: int  # were in the store already, with this very content
    invalid_records: tuple[tuple[str, str], ...]  # (place, reason) of what could not be used


def detect_formats(config: ImportConfig) -> list[Format]:
    """The format of each source: as it is given, or as it looks."""
    if config.format != "auto":
        kind = get_format(config.format)
        gone = [path for path in config.sources if not path.exists() and not kind.is_prefix]
        if gone:
            raise FileNotFoundError(f"Nothing is at {gone[0]}: give a {'folder' if kind.is_folder else 'file'}")
        return [kind] * len(config.sources)
    return [detect_format(path, config.options) for path in config.sources]


def count_images(config: ImportConfig) -> int:
    """Images in the sources, for a progress bar (of a TSV estimated from its first line)."""
    return sum(kind.count(path) for kind, path in zip(detect_formats(config), config.sources, strict=True))


def import_recipe(config: ImportConfig, formats: list[Format]) -> dict[str, Any]:
    """What names the store: the source of the features and the settings that decide numbers or ids.

    The content of the files stands in the items' hashes: a second file of the same features may join the first.
    """
    read = config.options
    return {
        "extractor": "import",
        "version": VERSION,
        "source": config.name or "+".join(path.name for path in config.sources),
        "formats": sorted({kind.name for kind in formats}),
        "ids": config.id_template,
        "dtype": _dtype(config),
        "sizes": config.sizes,
        "boxes": config.boxes,
        "transposed": read.transposed,
        "arrays": list(read.arrays),
        "normalize": read.normalize,
        "pickled": sorted(read.allow_pickle),
        "classes": _vocabulary(config.classes),
        "attributes": _vocabulary(config.attributes),
    }


def _dtype(config: ImportConfig) -> str:
    return "float16" if config.float16 else "float32"


def _vocabulary(path: Path | None) -> list[str]:
    if path is None:
        return []
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise ValueError(f"{path} has more than {MAX_VOCABULARY_BYTES:,} bytes; a vocabulary has a name a line")
    return [line.strip() for line in read_lines(path)]


def import_regions(
    config: ImportConfig, root: Path, progress: Progress = lambda _: None, stop_after: int | None = None
) -> ImportResult:
    """Read the sources into a region store below `root`, shard by shard; run again, it goes on where it was stopped.

    A record that cannot be used (broken base64, half a line, NaN, an id that came before) is set aside with its place
    and the reason, and the run goes on. Memory: one shard. `stop_after` shards a test's crash comes.

    Raises FileNotFoundError or ValueError for a source that cannot be read at all, or if nothing in it can be used.
    """
    formats = detect_formats(config)
    folder = open_or_create_store(root, "regions", import_recipe(config, formats), _dtype(config))
    with write_lock(folder):
        return _fill(config, formats, folder, progress, stop_after)


def _fill(
    config: ImportConfig, formats: list[Format], folder: Path, progress: Progress, stop_after: int | None
) -> ImportResult:
    store, waiting = Store(folder), deque[tuple[Item, dict[str, Any] | str]]()
    hashes, seen = _known(store), dict[str, str]()
    counts, aside, shards = {"num_imported": 0, "num_unchanged": 0}, [], 0
    for item, row in _items(config, formats, store.dim if len(store) else None, seen):
        progress(1)
        if isinstance(row, str):
            aside.append((item.id, row))
        if hashes.get(item.id) == item.hash:
            counts["num_unchanged"] += isinstance(row, dict)
            continue
        counts["num_imported"] += isinstance(row, dict)
        waiting.append((item, row))
        if len(waiting) == config.images_per_shard:
            if shards == stop_after:
                break
            shards += _flush(folder, waiting)
    if waiting and shards != stop_after:
        _flush(folder, waiting)
    if stop_after is None:
        _forget_mended(folder, config, {place for place, _ in aside}, seen)
    if not counts["num_imported"] + counts["num_unchanged"]:
        reason = f"; the first, {aside[0][0]}: {aside[0][1]}" if aside else ": no record in it"
        raise ValueError(f"{', '.join(map(str, config.sources))}: nothing could be imported{reason}")
    return ImportResult(folder, tuple(kind.name for kind in formats), **counts, invalid_records=tuple(aside))


def _forget_mended(folder: Path, config: ImportConfig, still: set[str], read: dict[str, str]) -> None:
    """Take out of the ledger what an earlier import set aside and this one has not.

    A store with a name may be of other sources too: there only the places count that are `read` now, by id.
    """
    mended = {escape_invalid_text(place) for name, at in read.items() for place in (_place(name, at), at)}
    with manifest_lock(folder):
        old = read_store_manifest(folder)
        kept = [e for e in old.invalid_items if e.id in still or (config.name and e.id not in mended)]
        write_next_manifest(folder, old, invalid_items=tuple(kept))


def _place(name: str, at: str) -> str:
    """What a record is called in the ledger."""
    return f"{name} ({at})" if name else at


def _known(store: Store) -> dict[str, str]:
    """Id -> content hash of what the store holds or has set aside."""
    found = dict(zip(store.ids, store.content_hashes(store.ids), strict=True))
    return found | {item.id: item.hash for item in store.manifest.invalid_items}


def _flush(folder: Path, waiting: deque[tuple[Item, dict[str, Any] | str]]) -> int:
    """Write what waits as one shard and list it; the rows are given away one by one, so that they are held once."""
    plan = ShardPlan(tuple(item for item, _ in waiting))
    commit(folder, [write_shard(folder, plan, (waiting.popleft()[1] for _ in range(len(waiting))))])
    waiting.clear()  # a shard that lay there from a killed run did not ask for its rows
    return 1


def _items(
    config: ImportConfig, formats: list[Format], dim: int | None, seen: dict[str, str]
) -> Iterator[tuple[Item, dict[str, Any] | str]]:
    """Each record as an item with its fields, or with the reason why it has none; that one is called by its place.

    `seen` is filled: the place of each id.
    """
    rename = Template(config.id_template)
    for kind, source in zip(formats, config.sources, strict=True):
        for record in kind.read(source, config.options):
            name = record.id
            try:
                if isinstance(record, InvalidSourceRecord):
                    name = _name_of(record, rename)
                    raise ValueError(record.reason)
                name = rename(record.id, record.split)
                if name in seen:
                    raise ValueError(f"the id {name!r} came before, at {seen[name]}")
                row = fill_missing_fields(record.fields, _size(config, name, record), config.boxes)
                if made := find_problem(row, _dtype(config), dim):
                    raise ValueError(made)
            except ValueError as error:
                place, reason = escape_invalid_text(_place(name, record.location)), escape_invalid_text(str(error))
                yield Item(place, hashlib.sha256(reason.encode()).hexdigest()), reason
                continue
            seen[name], dim = record.location, row["features"].shape[1]
            row = {key: np.ascontiguousarray(row[key], _stored(key, config)) for key in REGION_FIELDS}
            yield Item(name, _hash(row)), row


def _name_of(record: InvalidSourceRecord, rename: Template) -> str:
    """What the image would have been called: a plan can then say why it is not there."""
    try:
        return rename(record.id, record.split)
    except ValueError:
        return record.id


def _stored(field: str, config: ImportConfig) -> str:
    return _dtype(config) if field == "features" else REGION_FIELDS[field].dtype


def _hash(row: dict[str, np.ndarray]) -> str:
    hasher = hashlib.sha256()
    for name, values in row.items():
        hasher.update(f"{name} {values.dtype.str} {values.shape};".encode())
        hasher.update(values)
    return hasher.hexdigest()


def find_missing_images(store: Store, ids: list[str]) -> dict[str, str]:
    """Id -> reason of those that a store has no rows of: as it was set aside there, or that it never was there."""
    aside = store.invalid_items
    known = {place.rpartition(" (")[0]: reason for place, reason in aside.items()} | aside
    return {name: known.get(name, f"not in the store {store.folder}") for name in ids if name not in store}

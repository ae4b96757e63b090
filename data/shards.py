"""The writing half of a store: immutable HDF5 shards, and a manifest written last.

A shard is named by the digest of what it holds (ids and content hashes), so making it twice is harmless: a run that was
killed finds its finished shards by name and makes only the others. What the manifest does not list does not exist for
readers. Layout: field notes of ban-vqa's `pos_boxes` files (flat rows and offsets), plus ids, hashes and a CRC an item.
"""

import fcntl
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.files import atomic, digest, read_json, sha256_file, sweep, write_json

SCHEMA = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Field:
    """One column of a store: its dtype, and whether it has a value a row (a region, a token) or an item (an image)."""

    dtype: str
    per: str = "row"


REGION_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "boxes": Field("float32"),  # (rows, 4): x1 y1 x2 y2, pixels
    "class_ids": Field("int32"),  # (rows,): index into the recipe's `classes`; -1 is no class (the whole image, a cell)
    "scores": Field("float32"),  # (rows,): 0..1
    "attr_ids": Field("int32"),  # (rows,): index into the recipe's `attributes`; -1 where none was looked for
    "attr_scores": Field("float32"),  # (rows,): 0..1
    "size": Field("int32", per="item"),  # (items, 2): width, height, pixels
}
TOKEN_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "token_ids": Field("int32"),  # (rows,)
    "whole": Field("int32", per="item"),  # (items,): rows of the sentence before it was cut
}
VECTOR_FIELDS = {"features": Field("float16")}  # (rows, e): one row an item, unit length
FEATURE_DTYPES = ("float16", "float32")  # float32 for features of others that must come out again bit for bit
FIELDS = {"regions": REGION_FIELDS, "tokens": TOKEN_FIELDS, "vectors": VECTOR_FIELDS}


@dataclass(frozen=True)
class Item:
    """What a store keeps rows of: an id, and the hash of the content they are made from."""

    id: str
    hash: str


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made: its file name follows from its items."""

    items: tuple[Item, ...]

    @property
    def file(self) -> str:
        """File name: the same items in the same order give the same name."""
        return f"shard-{digest([[item.id, item.hash] for item in self.items])}.h5"


def fields_of(manifest: dict[str, Any]) -> dict[str, Field]:
    """The columns of a store, the features in the dtype that its manifest names."""
    return {**FIELDS[manifest["kind"]], "features": Field(manifest["dtype"])}


def open_folder(root: Path, kind: str, recipe: dict[str, Any], dtype: str = "float16") -> Path:
    """The folder `root/kind-<digest of the recipe>`; made, with an empty manifest, if it is new.

    `dtype` is that of the features, one of `FEATURE_DTYPES`; a store that is there already keeps its own.

    Raises ValueError if the folder holds a store of another recipe (it was copied, or its manifest was edited).
    """
    folder = Path(root) / f"{kind}-{digest(recipe)}"
    if not (folder / MANIFEST).exists():
        write_json(folder / MANIFEST, _manifest(kind, recipe, dtype, 0, [], []))
    found = read_manifest(folder)
    if digest(found["recipe"]) != digest(recipe) or found["kind"] != kind:
        raise ValueError(f"{folder} holds {found['kind']} of another recipe than its name says; move the folder away.")
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """A store's manifest. Raises FileNotFoundError or ValueError with the next move."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"No store at {folder} ({MANIFEST} is missing): run the stage that writes it.")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a store manifest of schema {SCHEMA}; it was written by another version.")
    return manifest


def plan_shards(folder: Path, items: Sequence[Item], items_per_shard: int) -> list[ShardPlan]:
    """Shards to make so that the store holds all `items`: those not listed, or whose content has changed.

    Items that were set aside are asked for again only when their content changes.
    """
    known = set(_known(folder))
    todo = [item for item in items if (item.id, item.hash) not in known]
    return [ShardPlan(tuple(todo[i : i + items_per_shard])) for i in range(0, len(todo), items_per_shard)]


def _known(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, hash) of the items that the manifest answers for: the newest shard that names an id speaks for it."""
    manifest = read_manifest(folder)
    newest: dict[str, str] = {}
    for shard in manifest["shards"]:
        newest.update(zip(*shard_items(Path(folder) / shard["file"]), strict=True))
    newest.update({entry["id"]: entry["hash"] for entry in manifest["set_aside"]})
    yield from newest.items()


def shard_items(path: Path) -> tuple[list[str], list[str]]:
    """Ids and content hashes of a shard's items. Raises ValueError naming a file that cannot be read."""
    with open_shard(path) as file:
        return list(file["ids"].asstr()[:]), [value.decode() for value in file["hashes"][:]]


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """Open a shard to read; a missing or broken file is an error that says what to do."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is listed in the manifest but missing; restore it, or delete the store's folder."
        )
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError(
            f"{path} is not a readable shard ({error}); restore it, or delete the store's folder."
        ) from error
    with file:
        yield file


def write_shard(folder: Path, plan: ShardPlan, rows: Iterable[dict[str, Any] | str]) -> str:
    """Write one shard: `rows` gives, for each planned item, its fields, or the reason why it has none.

    Returns the file name. If the shard is there already and whole, `rows` is not touched. Memory: one shard.
    """
    path = Path(folder) / plan.file
    if path.exists() and not damage(path):
        return plan.file
    fields = fields_of(read_manifest(folder))
    kept: list[tuple[Item, dict[str, np.ndarray]]] = []
    aside: list[dict[str, str]] = []
    for item, row in zip(plan.items, rows, strict=True):
        reason = row if isinstance(row, str) else ""
        values = {} if reason else {name: np.asarray(row[name]) for name in fields}
        if reason := reason or _problem(values, fields):
            aside.append({"id": item.id, "hash": item.hash, "reason": reason})
        else:
            kept.append((item, {name: values[name].astype(fields[name].dtype) for name in fields}))
    with atomic(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        _fill(file, kept, fields)
        file.attrs["set_aside"] = json.dumps(aside)
    return plan.file


def _problem(values: dict[str, np.ndarray], fields: dict[str, Field]) -> str:
    """Why rows cannot be stored, or an empty text: half precision ends at 65,504, and a store holds no NaN."""
    lengths = {len(values[name]) for name in fields if fields[name].per == "row"}
    if len(lengths) != 1 or 0 in lengths:
        return f"its fields have {sorted(lengths)} rows; one number above 0 is needed"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {name: values[name].astype(field.dtype) for name, field in fields.items()}
    broken = [name for name, rows in stored.items() if not np.isfinite(rows).all()]
    return f"its {' and '.join(broken)} are not finite as stored" if broken else ""


def _fill(file: h5py.File, kept: list[tuple[Item, dict[str, np.ndarray]]], fields: dict[str, Field]) -> None:
    lengths = [len(values[_row_field(fields)]) for _, values in kept]
    file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    file.create_dataset("ids", data=[item.id for item, _ in kept], dtype=h5py.string_dtype(), shape=(len(kept),))
    file["hashes"] = np.array([item.hash for item, _ in kept], dtype="S64")
    file["crc32"] = np.array([_crc(values, fields) for _, values in kept], dtype="uint32")
    for name, field in fields.items():
        parts = [values[name] for _, values in kept]
        joined = np.concatenate(parts) if field.per == "row" and parts else np.array(parts, dtype=field.dtype)
        file.create_dataset(name, data=joined)  # contiguous: readers map it at its offset in the file


def _row_field(fields: dict[str, Field]) -> str:
    return next(name for name, field in fields.items() if field.per == "row")


def _crc(values: dict[str, np.ndarray], fields: dict[str, Field]) -> int:
    checksum = 0
    for name in fields:
        checksum = zlib.crc32(np.ascontiguousarray(values[name]).tobytes(), checksum)
    return checksum


def damage(path: Path) -> list[str]:
    """What is wrong with a shard, item by item: an empty list if every row has its checksum."""
    try:
        with open_shard(path) as file:
            ids, offsets = file["ids"].asstr()[:], file["offsets"][:]
            fields = next(f for f in FIELDS.values() if set(f) == set(file) - {"offsets", "ids", "hashes", "crc32"})
            columns = {name: file[name][:] for name in fields}
            expected = file["crc32"][:]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        return [f"{path}: unreadable: {error or 'its fields are not those of a store'}"]
    found = []
    for i, name in enumerate(ids):
        rows = slice(offsets[i], offsets[i + 1])
        values = {key: columns[key][rows] if field.per == "row" else columns[key][i] for key, field in fields.items()}
        if _crc(values, fields) != expected[i]:
            found.append(f"{path}: the rows of {name} do not have the checksum they were written with")
    return found


def commit(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """List finished shards in the manifest (the next generation) and return it; nothing new leaves it as it is.

    The manifest is read, extended and written under a lock that the system drops if the process dies.
    """
    with open(Path(folder) / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(folder)
        old = read_manifest(folder)
        aside = {entry["id"]: entry for entry in old["set_aside"]}
        shards = {shard["file"]: shard for shard in old["shards"]}
        for name in dict.fromkeys(files):
            entry, ids, entries = _describe(Path(folder) / name)
            shards.pop(name, None)
            shards[name] = entry  # last: the newest shard that names an id speaks for it
            for found in ids:
                aside.pop(found, None)  # readable now: its new content replaces the old verdict
            aside.update({bad["id"]: bad for bad in entries})
        if list(shards.values()) == old["shards"] and list(aside.values()) == old["set_aside"]:
            return old
        content = list(shards.values()), list(aside.values())
        new = _manifest(old["kind"], old["recipe"], old["dtype"], old["generation"] + 1, *content)
        write_json(Path(folder) / MANIFEST, new)
        return new


def _describe(path: Path) -> tuple[dict[str, Any], list[str], list[dict[str, str]]]:
    """A finished shard's entry for the manifest, the ids of its items, and the items that were set aside."""
    with open_shard(path) as file:
        ids, rows = list(file["ids"].asstr()[:]), int(file["offsets"][-1])
        aside = json.loads(file.attrs["set_aside"])
    size = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "items": len(ids), "rows": rows}
    return {"file": path.name, **size}, ids, aside


def _manifest(
    kind: str, recipe: dict[str, Any], dtype: str, generation: int, shards: list[Any], aside: list[Any]
) -> dict[str, Any]:
    content = {"kind": kind, "recipe": recipe, "dtype": dtype, "generation": generation}
    return {"schema": SCHEMA, **content, "shards": shards, "set_aside": aside}

"""What a store consists of: columns, items, shards to be made, and the manifest. What is not listed does not exist."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError

from data.io.digests import digest
from data.io.files import read_json, write_json
from data.io.locks import manifest_lock
from data.manifest.schema import FIELDS, Field

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"


def manifest_fields(manifest: dict[str, Any]) -> dict[str, Field]:
    """The columns of a store, the features in the dtype that its manifest names."""
    return {**FIELDS[manifest["kind"]], "features": Field(manifest["dtype"])}


def open_or_create_store(root: Path, kind: str, recipe: dict[str, Any], dtype: str = "float16") -> Path:
    """The folder `root/kind-<digest of the recipe>`; made, with an empty manifest, if it is new.

    `dtype` is that of the features, one of `FEATURE_DTYPES`; a store that is there already keeps its own.

    Raises ValueError if the folder holds a store of another recipe (it was copied, or its manifest was edited).
    """
    folder = Path(root) / f"{kind}-{digest(recipe)}"
    if not (folder / MANIFEST).exists():  # no lock for a store that is there: its folder may be read-only
        folder.mkdir(parents=True, exist_ok=True)
        with manifest_lock(folder):
            if not (folder / MANIFEST).exists():  # another may have made it, and listed its work, in between
                empty = {"shards": [], "invalid_items": [], "removed_ids": [], "replaced_files": []}
                about = {"kind": kind, "recipe": recipe, "dtype": dtype, "generation": 0}
                write_json(folder / MANIFEST, {"schema": SCHEMA_VERSION, **about, **empty})
    found = read_store_manifest(folder)
    if digest(found["recipe"]) != digest(recipe) or found["kind"] != kind:
        raise ValueError(f"{folder} holds {found['kind']} of another recipe than its name says; move the folder away.")
    return folder


def read_store_manifest(folder: Path) -> dict[str, Any]:
    """A store's manifest. Raises FileNotFoundError or ValueError with the next move.

    `shards`: its files, the newest last, which speaks for the ids it names; `set_aside`: items that could not be
    extracted; `dropped`: ids that the dataset no longer has; `retired`: files that a compaction has replaced.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"No store at {folder} ({MANIFEST} is missing): run the stage that writes it.")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} is not a store manifest of schema {SCHEMA_VERSION}; it was written by another version."
        )
    if wrong := _problem(manifest):
        raise ValueError(f"{path} is not a store's manifest: {wrong}. Restore the file, or delete the store's folder.")
    return manifest


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Shard(_Strict):
    """An entry of `shards`: a file of the folder, and what it must be."""

    file: Annotated[str, StringConstraints(pattern=r"^[^/\\]+\.h5$")]
    bytes: NonNegativeInt
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    items: NonNegativeInt
    rows: NonNegativeInt
    row_spans: list[list[NonNegativeInt]]  # first byte and bytes of each column of rows
    metadata_crc32: NonNegativeInt  # of all the other bytes


class _Aside(_Strict):
    """An entry of `set_aside`: an item that could not be extracted."""

    id: str
    hash: str
    reason: str


class _Listing(_Strict):
    """All of a manifest but its schema."""

    kind: Literal["regions", "tokens", "vectors"]
    recipe: dict[str, Any]
    dtype: Literal["float16", "float32"]
    generation: NonNegativeInt
    shards: list[_Shard]
    invalid_items: list[_Aside]
    removed_ids: list[str]
    replaced_files: list[str]


def _problem(manifest: dict[str, Any]) -> str:
    """What a reader could stumble over, or be led out of the folder by; an empty text if there is nothing."""
    try:
        listing = _Listing.model_validate({key: value for key, value in manifest.items() if key != "schema"})
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if any(len(place) != 2 for shard in listing.shards for place in shard.row_spans):
        return "rows_at holds pairs of first byte and bytes"
    return "it lists a shard twice" if len({shard.file for shard in listing.shards}) != len(listing.shards) else ""

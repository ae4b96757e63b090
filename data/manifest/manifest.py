"""Manifest of a store: which shards it has, and which items are invalid. A shard that is not listed is not read."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError, model_validator

from data.io.digests import digest
from data.io.files import read_json, write_json
from data.io.locks import manifest_lock
from data.io.schema import describe_other_version
from data.manifest.schema import FIELDS, FeatureDtype, Field, Kind, Recipe
from data.text import describe_validation_error

SCHEMA_VERSION: Literal[4] = 4
READABLE_SCHEMAS = (3, SCHEMA_VERSION)  # there are no row vectors in 3
PROGRAM_BY_SCHEMA = {2: "0.1"}  # version of this program that wrote an older schema
MANIFEST = "manifest.json"

# Not strict: JSON has only lists, and an immutable model has tuples.
ByteSpan = Annotated[tuple[NonNegativeInt, NonNegativeInt], pydantic.Field(strict=False)]  # first byte, number of bytes


class _ManifestModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardEntry(_ManifestModel):
    """One shard file of a store, and what its bytes must be."""

    file: Annotated[str, StringConstraints(pattern=r"^[^/\\]+\.h5$")]
    """File name in the store's folder; a path to another folder is an error."""
    bytes: NonNegativeInt
    """Size of the file, in bytes."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the file, 64 hex digits."""
    items: NonNegativeInt
    """Number of items."""
    rows: NonNegativeInt
    """Number of rows of all items."""
    row_spans: tuple[ByteSpan, ...] = pydantic.Field(strict=False)
    """Byte ranges of the columns that have one value per row; empty if HDF5 stores them in chunks."""
    metadata_crc32: NonNegativeInt
    """CRC-32 of all bytes outside `row_spans`."""


class InvalidItem(_ManifestModel):
    """An item that has no rows, and why."""

    id: str
    hash: str
    """Content hash of the item; the item is tried again when its content changes."""
    reason: str


class StoreManifest(_ManifestModel):
    """Content of a store's `manifest.json`."""

    schema_version: Literal[3, 4] = pydantic.Field(SCHEMA_VERSION, alias="schema")
    """Schema of this file."""
    kind: Kind
    """What a row is: a region, a token, a vector, or the row vector of a region or token."""
    recipe: Recipe
    """Settings and hashes that determine the numbers; their digest names the folder."""
    dtype: FeatureDtype
    """Dtype of the column `features`."""
    generation: NonNegativeInt
    """Number of commits so far."""
    shards: tuple[ShardEntry, ...] = pydantic.Field(strict=False)
    """Shards, newest last; rows of an id are read from the newest shard that has it."""
    invalid_items: tuple[InvalidItem, ...] = pydantic.Field(strict=False)
    """Items without rows."""
    removed_ids: tuple[str, ...] = pydantic.Field(strict=False)
    """Ids that shards or `invalid_items` still have, but the dataset does not."""
    replaced_files: tuple[str, ...] = pydantic.Field(strict=False)
    """Files that a compaction replaced and that may not be deleted yet."""

    @model_validator(mode="after")
    def _check_files(self) -> "StoreManifest":
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is listed twice")
        return self

    def fields(self) -> dict[str, Field]:
        """Return the columns of the store by name; `features` has the dtype of this manifest."""
        return {**FIELDS[self.kind], "features": Field(self.dtype)}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `manifest.json` holds."""
        return self.model_dump(mode="json", by_alias=True)


def is_store(folder: Path) -> bool:
    """Return whether a folder has the manifest of a store."""
    return (Path(folder) / MANIFEST).is_file()


def store_path(root: Path, kind: Kind, recipe: Recipe) -> Path:
    """Return the folder `root/<kind>-<digest of the recipe>`, which need not exist."""
    return Path(root) / f"{kind}-{digest(recipe)}"


def open_or_create_store(root: Path, kind: Kind, recipe: Recipe, dtype: FeatureDtype = "float16") -> Path:
    """Return the folder `root/<kind>-<digest of the recipe>`.

    Create it with an empty manifest if it is new.

    Args:
        root: Folder of the stores.
        kind: What a row of the store is.
        recipe: Settings and hashes that determine the numbers of the store.
        dtype: Dtype of the features of a new store; an existing store keeps its dtype.

    Raises:
        ValueError: The folder holds a store of another recipe: it was copied, or its manifest was edited.
    """
    folder = store_path(root, kind, recipe)
    if not (folder / MANIFEST).exists():  # an existing store needs no lock: its folder may be read-only
        folder.mkdir(parents=True, exist_ok=True)
        with manifest_lock(folder):
            if not (folder / MANIFEST).exists():  # another process may have created it before the lock was free
                empty = StoreManifest(
                    kind=kind,
                    recipe=recipe,
                    dtype=dtype,
                    generation=0,
                    shards=(),
                    invalid_items=(),
                    removed_ids=(),
                    replaced_files=(),
                )
                write_store_manifest(folder, empty)
    manifest = read_store_manifest(folder)
    if digest(manifest.recipe) != digest(recipe) or manifest.kind != kind:
        raise ValueError(
            f"{folder} holds {manifest.kind} of another recipe than its name says. Move the folder to another place."
        )
    return folder


def write_store_manifest(folder: Path, manifest: StoreManifest) -> Path:
    """Write `manifest.json` of a store, atomically.

    The caller holds the `manifest_lock` of an existing store.
    """
    return write_json(Path(folder) / MANIFEST, manifest.to_json())


def read_store_manifest(folder: Path) -> StoreManifest:
    """Read the manifest of a store.

    Raises:
        FileNotFoundError: The folder has no manifest.
        ValueError: The manifest is not valid, or its schema is of another version of this program.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"No store at {folder}: {MANIFEST} is missing. Run the stage that writes the store: `tern extract` writes "
            "features, `tern evaluate` vectors."
        )
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in READABLE_SCHEMAS:
        program = PROGRAM_BY_SCHEMA.get(schema, "") if isinstance(schema, int) else ""
        message = describe_other_version(path, "store schema", schema, SCHEMA_VERSION, program)
        writer = f"version {program}" if program else "that version"
        raise ValueError(f"{message} Delete {folder} and run the command again to recompute it, or install {writer}.")
    try:
        return StoreManifest.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"{path} is not a store's manifest: {describe_validation_error(error)}. Restore the file, or delete the "
            "store's folder."
        ) from error

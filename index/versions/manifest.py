"""Manifest of `index`."""

from typing import Any, Literal

from pydantic import Field, model_validator

from index.config import Kind
from index.versions.objects import ManifestModel, ObjectRef

SCHEMA_VERSION = 3
CHECKSUM_PLACEHOLDER = "0" * 64
PARTS = ("inverted_lists", "vectors", "metadata", "lookup")  # of a shard


class ShardManifest(ManifestModel):
    """Some rows of a collection: inverted lists, whole vectors and what the rows stand for, under the same keys."""

    role: Literal["base", "delta"]
    rows: int = Field(ge=0)
    inverted_lists: ObjectRef
    vectors: ObjectRef
    metadata: ObjectRef
    lookup: ObjectRef
    coarse_error: float = Field(ge=0)
    """mean distance of its rows to their nearest centroid, over at most 4,096 of them; 0 without rows"""


class DeletedRows(ManifestModel):
    """Keys that shards hold and that are never answered."""

    rows: int = Field(ge=1)
    keys: ObjectRef


class RowCounts(ManifestModel):
    """Rows that are answered, and rows that shards hold and that are not."""

    live: int = Field(ge=0)
    deleted: int = Field(ge=0)


class SearchParams(ManifestModel):
    """How a collection is asked unless a request says otherwise: lists probed, rows rescored by their whole vectors."""

    nprobe: int = Field(ge=1)
    rescore: int = Field(ge=0)


class CollectionManifest(ManifestModel):
    """One collection."""

    dim: int = Field(ge=1)
    factory: str
    nlist: int = Field(ge=1)
    vector_space: str
    trained_index: ObjectRef
    shards: list[ShardManifest]
    deleted: DeletedRows | None = None
    counts: RowCounts
    search: SearchParams
    recall: dict[str, Any]
    coarse_error: float = Field(ge=0)
    """that of the rows which the centroids were trained for: what the drift of later rows is measured against"""

    @model_validator(mode="after")
    def _adds_up(self) -> "CollectionManifest":
        held, dead = sum(shard.rows for shard in self.shards), self.deleted.rows if self.deleted else 0
        if (self.counts.live, self.counts.deleted) != (held - dead, dead):
            raise ValueError(f"shards hold {held} rows, {dead} of them dead, but counts say {self.counts}")
        return self


class Candidate(ManifestModel):
    """All of a version but its number and its verdict."""

    inputs_digest: str
    faiss: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    collections: dict[Kind, CollectionManifest]


class Manifest(Candidate):
    """A version."""

    schema_: Literal[3] = Field(SCHEMA_VERSION, alias="schema")
    sha256: str = CHECKSUM_PLACEHOLDER
    """Of the file's text with these 64 digits as zeros; so every version can be checked, not only the served one."""
    version: int = Field(ge=1)
    parent: int | None
    gate: dict[str, Any] | None
    """What the gate said, at least {"passed": bool}; None: there was no gate."""

    @model_validator(mode="after")
    def _has_a_verdict(self) -> "Manifest":
        if self.gate is not None and not isinstance(self.gate.get("passed"), bool):
            raise ValueError(f"the gate's verdict {self.gate!r} does not say whether it passed")
        return self

    @property
    def is_rejected(self) -> bool:
        """Whether the gate said no: such a version is kept to be looked at, and is never served."""
        return self.gate is not None and not self.gate["passed"]

    def as_dict(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json", by_alias=True)

    def candidate(self) -> Candidate:
        """The same without number and verdict."""
        return Candidate(**{name: getattr(self, name) for name in Candidate.model_fields})

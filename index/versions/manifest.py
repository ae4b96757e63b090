"""Models of an index manifest: objects, counts and measurements of a version."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from data.config import ColumnType
from index.config import EXACT_CODES, KINDS, QUERY_SOURCES, QuerySource
from index.versions.calibration import ScoreCalibration
from index.versions.objects import ManifestModel, ObjectRef
from index.versions.verdict import GateVerdict

SCHEMA_VERSION: Final = 7
# 3 lacks the sources of queries and the checks not made, 4 also the calibration, 5 also the row vectors, 6 the columns.
READABLE_SCHEMAS = (3, 4, 5, 6, SCHEMA_VERSION)
CHECKSUM_PLACEHOLDER = "0" * 64
KindName = Annotated[str, StringConstraints(pattern=f"^({'|'.join(KINDS)})$")]
ColumnName = Annotated[str, StringConstraints(pattern="^[a-z_][a-z0-9_]{0,59}$")]  # becomes part of SQL statements
PARTS = ("inverted_lists", "vectors", "metadata", "lookup", "row_vectors")  # the objects of a shard


class ShardManifest(ManifestModel):
    """One shard: inverted lists, uncompressed vectors, metadata rows and row vectors under the same keys.

    Attributes:
        role: base: written by a build or a compaction; delta: added by an update
        row_vectors: None if the collection has no row vectors
        coarse_error: mean distance of its rows to their nearest centroid, measured on at most 4,096 of them; 0 without
            rows
    """

    role: Literal["base", "delta"]
    rows: int = Field(ge=0)
    inverted_lists: ObjectRef
    vectors: ObjectRef
    metadata: ObjectRef
    lookup: ObjectRef
    row_vectors: ObjectRef | None = None
    coarse_error: float = Field(ge=0)

    @property
    def objects(self) -> dict[str, ObjectRef]:
        """The objects of the shard by the name of the part."""
        refs = ((name, getattr(self, name)) for name in PARTS)
        return {name: ref for name, ref in refs if ref is not None}


class DeletedRows(ManifestModel):
    """Keys of the rows that are in shards but are never returned."""

    rows: int = Field(ge=1)
    keys: ObjectRef


class RowCounts(ManifestModel):
    """Number of live and of deleted rows in the shards of a collection."""

    live: int = Field(ge=0)
    deleted: int = Field(ge=0)


class SearchParams(ManifestModel):
    """Default search parameters of a collection.

    Attributes:
        nprobe: inverted lists probed per query
        rescore: rows per query that are rescored with their uncompressed vectors; 0: the scores of the codes are final
        rerank: best rows of the global search per query that are ordered by the combined score; 0: its order is final
    """

    nprobe: int = Field(ge=1)
    rescore: int = Field(ge=0)
    rerank: int = Field(0, ge=0)


class AlignmentInfo(ManifestModel):
    """Row vectors of a collection, which rerank the hits of the global search.

    Attributes:
        dim: numbers per row vector
        alignment_weight: weight of the alignment score in the combined score; that of the global score is 1 minus it
    """

    dim: int = Field(ge=1)
    alignment_weight: float = Field(ge=0, le=1)


class RecallReport(ManifestModel):
    """The nprobe that one half of the queries chose, and its recall on the other half.

    Attributes:
        recall: share of the exact best `k` that is found, on the test queries
        tuning_recall: the same on the tuning queries, which chose nprobe
        target: recall that was aimed at
        target_reached: whether the tuning queries reach the target; lossy codes may miss it with every list probed
        query_source: where the queries come from, a key of `QUERY_SOURCES`
    """

    nprobe: int
    recall: float
    tuning_recall: float
    k: int
    num_test_queries: int
    num_tuning_queries: int
    target: float
    target_reached: bool
    query_source: QuerySource = "held-out"

    def describe(self) -> str:
        """Return recall and queries in words."""
        return (
            f"recall@{self.k} {self.recall:.3f} of {self.num_test_queries:,} {QUERY_SOURCES[self.query_source]}; "
            f"{self.num_tuning_queries:,} others chose nprobe"
        )


class CollectionManifest(ManifestModel):
    """One collection of a version."""

    dim: int = Field(ge=1)
    factory: str
    nlist: int = Field(ge=1)
    vector_space: str
    trained_index: ObjectRef
    shards: list[ShardManifest]
    deleted: DeletedRows | None = None
    counts: RowCounts
    search: SearchParams
    recall: RecallReport
    calibration: ScoreCalibration | None = None
    """the chance that a hit is right; None if there were no queries with known answers"""
    alignment: AlignmentInfo | None = None
    """row vectors of the items; None if the shards have none"""
    coarse_error: float = Field(ge=0)
    """mean distance to the nearest centroid of the rows of the full build; the drift of later rows is relative to it"""

    @property
    def is_exact(self) -> bool:
        """Whether every query is compared with all vectors as they are stored."""
        return self.nlist == 1 and self.factory.split(",")[-1] in EXACT_CODES

    @model_validator(mode="after")
    def _check_counts(self) -> "CollectionManifest":
        total, deleted = sum(shard.rows for shard in self.shards), self.deleted.rows if self.deleted else 0
        if (self.counts.live, self.counts.deleted) != (total - deleted, deleted):
            raise ValueError(f"the shards have {total} rows, {deleted} of them deleted, but counts is {self.counts}")
        if any((shard.row_vectors is None) != (self.alignment is None) for shard in self.shards):
            raise ValueError("row_vectors and alignment do not agree: either all shards have row vectors, or none")
        return self


class Candidate(ManifestModel):
    """A version without its number and its verdict.

    Attributes:
        faiss: version of faiss that wrote it
        config: the `IndexConfig` of the build, as JSON
        provenance: JSON of the caller: what the vectors were computed from; only compared for equality
        collections: by kind: image, caption or both
        columns: types of the columns of the user's own, by name
    """

    inputs_digest: str
    faiss: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    collections: dict[KindName, CollectionManifest]
    columns: dict[ColumnName, ColumnType] = Field(default_factory=dict)


class Manifest(Candidate):
    """A version: the content of `versions/v00000001.json`.

    Attributes:
        sha256: SHA-256 of the file's text with these 64 digits replaced by zeros, so that any version can be verified
        parent: version that was served when this one was published; None if there was none
        gate: verdict of the gate; None if there was no gate
    """

    schema_: Literal[3, 4, 5, 6, 7] = Field(SCHEMA_VERSION, alias="schema")
    sha256: str = CHECKSUM_PLACEHOLDER
    version: int = Field(ge=1)
    parent: int | None
    gate: GateVerdict | None

    @property
    def is_rejected(self) -> bool:
        """Whether the gate rejected this version: it is kept for inspection and never served."""
        return self.gate is not None and not self.gate.passed

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON content of the manifest file."""
        return self.model_dump(mode="json", by_alias=True)

    def candidate(self) -> Candidate:
        """Return the manifest without number and verdict."""
        return Candidate(**{name: getattr(self, name) for name in Candidate.model_fields})

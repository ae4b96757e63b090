"""Models of an index manifest: objects, counts and measurements of a version, and the verdict of its gate."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from index.config import EXACT_CODES, KINDS, QUERY_SOURCES, QuerySource
from index.versions.calibration import ScoreCalibration
from index.versions.objects import ManifestModel, ObjectRef

SCHEMA_VERSION: Final = 5
READABLE_SCHEMAS = (3, 4, SCHEMA_VERSION)  # 3 lacks the sources of queries and the checks not made; 4 the calibration
CHECKSUM_PLACEHOLDER = "0" * 64
KindName = Annotated[str, StringConstraints(pattern=f"^({'|'.join(KINDS)})$")]
PARTS = ("inverted_lists", "vectors", "metadata", "lookup")  # the objects of a shard


class ShardManifest(ManifestModel):
    """One shard: inverted lists, uncompressed vectors and metadata rows under the same keys.

    Attributes:
        role: base: written by a build or a compaction; delta: added by an update
        coarse_error: mean distance of its rows to their nearest centroid, measured on at most 4,096 of them; 0 without
            rows
    """

    role: Literal["base", "delta"]
    rows: int = Field(ge=0)
    inverted_lists: ObjectRef
    vectors: ObjectRef
    metadata: ObjectRef
    lookup: ObjectRef
    coarse_error: float = Field(ge=0)


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
    """

    nprobe: int = Field(ge=1)
    rescore: int = Field(ge=0)


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
        return self


class Candidate(ManifestModel):
    """A version without its number and its verdict.

    Attributes:
        faiss: version of faiss that wrote it
        config: the `IndexConfig` of the build, as JSON
        provenance: JSON of the caller: what the vectors were computed from; only compared for equality
        collections: by kind: image, caption or both
    """

    inputs_digest: str
    faiss: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    collections: dict[KindName, CollectionManifest]


class GateCheck(ManifestModel):
    """One measurement of the gate and its limit. JSON has no key for a field that is None.

    Attributes:
        count: number of rows or queries that `value` is the mean of
        served_value: the same measurement of the served version
        problem: what is wrong; of a check that measures nothing, empty if it passed
    """

    passed: bool
    value: float | None = None
    min: float | None = None
    max: float | None = None
    count: int | None = None
    unit: str | None = None
    served_value: float | None = None
    problem: str | None = None

    @model_serializer(mode="wrap")
    def _omit_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def __str__(self) -> str:
        """Return the check in words, such as `0.97 over 250, minimum 0.9, served version 0.98`."""
        if self.value is None:
            return self.problem or "matches the manifest"
        value = f"{self.value:g} over {self.count}" if self.count is not None else f"{self.value:g} {self.unit or ''}"
        limits = {"minimum": self.min, "maximum": self.max, "served version": self.served_value}
        parts = [value.strip(), *(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)]
        return f"{', '.join(parts)}{f'; {self.problem}' if self.problem else ''}"


class GateVerdict(ManifestModel):
    """Result of the gate.

    JSON has `override_reason` and `rejected_version` only if the gate was overridden.

    Attributes:
        reason: the failed checks in words; empty if it passed
        query_digests: by kind, digest of the queries that were run
        query_sources: by kind, where these queries come from
        not_checked: by check, why it could not be made; such a check does not count
        compared_with: the served version at that time; None if there was none
        config: the `GateConfig`, as JSON
        override_reason: why this version is served although the gate rejected it; None if it was not overridden
        rejected_version: the rejected version with the same content; None if the gate was not overridden
    """

    passed: bool
    reason: str = ""
    checks: dict[str, GateCheck] = Field(default_factory=dict)
    query_digests: dict[str, str] = Field(default_factory=dict)
    query_sources: dict[str, QuerySource] = Field(default_factory=dict)
    not_checked: dict[str, str] = Field(default_factory=dict)
    compared_with: int | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    override_reason: str | None = None
    rejected_version: int | None = None

    def describe_not_checked(self) -> list[str]:
        """Return one line per reason, with the checks that could not be made."""
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in sorted(self.not_checked.items()):
            names_by_reason.setdefault(reason, []).append(name)
        return [f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]

    @model_serializer(mode="wrap")
    def _omit_override(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = ("override_reason", "rejected_version")
        return {name: value for name, value in handler(self).items() if value is not None or name not in optional}


class Manifest(Candidate):
    """A version: the content of `versions/v00000001.json`.

    Attributes:
        sha256: SHA-256 of the file's text with these 64 digits replaced by zeros, so that any version can be verified
        parent: version that was served when this one was published; None if there was none
        gate: verdict of the gate; None if there was no gate
    """

    schema_: Literal[3, 4, 5] = Field(SCHEMA_VERSION, alias="schema")
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

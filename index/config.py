"""Config of `index`."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


class IndexConfig(BaseModel):
    """How an index is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factory: str = "auto"
    """faiss factory string of a plain inverted file; "{nlist}" is filled in. auto: float16 codes in one list up to
    50,000 rows, which is exact search; one byte a number below 100,000; then PQ fast-scan, rescored (RaBitQ if the
    dimension is no multiple of 4)."""
    nlist: int | None = Field(None, ge=1)
    """inverted lists a collection; None: 4 sqrt(rows), at least 39 rows a list, rounded down to a power of two"""
    shards: int = Field(4, ge=1, le=4096)
    """parts of a collection; an item's 64-bit key says which"""
    rescore: int | None = Field(None, ge=0, le=100_000)
    """rows found by their codes that are rescored by their whole vectors; 0: the codes' scores stand. None: 200 for
    fast-scan codes, 0 for others"""
    target_recall: float = Field(0.99, gt=0, le=1)
    """share of the exact best 10 to be found, on the queries that choose nprobe"""
    train_rows: int = Field(262_144, ge=1)
    """rows drawn at random to train the quantizer, at most; more where 39 a list need them"""
    tuning_queries: int = Field(2_000, ge=2)
    """queries drawn at random to choose nprobe (one half) and to judge it (the other), at most"""
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _one_source_of_nlist(self) -> "IndexConfig":
        if self.nlist is not None and self.factory != "auto" and "{nlist}" not in self.factory:
            raise ValueError(
                f"factory {self.factory!r} says how many lists, and nlist {self.nlist} says it again; "
                "write IVF{nlist} in the factory or leave nlist out."
            )
        return self


Kind = Literal["image", "caption"]
KINDS: tuple[str, ...] = get_args(Kind)


class MaintenanceConfig(BaseModel):
    """When an index is compacted, and when its centroids are trained anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_delta_shards: int = Field(8, ge=1)
    """delta shards of a collection, at most: each is one more file a query looks into"""
    max_delta_fraction: float = Field(0.2, gt=0, le=1)
    """fraction of the rows in delta shards, at most"""
    max_deleted_fraction: float = Field(0.05, gt=0, le=1)
    """fraction of dead rows among those that shards hold, at most"""
    max_drift: float = Field(1.15, gt=1)
    """growth of the mean distance to the nearest centroid, at most: beyond, the centroids are trained anew"""
    min_drift_fraction: float = Field(0.01, ge=0, le=1)
    """fraction of the rows in delta shards from which drift counts: a few odd rows are no drift"""
    max_growth: float = Field(2.0, ge=1)
    """rows over those for which a build would choose more lists than there are: beyond, the index is built anew"""


class GateConfig(BaseModel):
    """What a version must reach to be served. Shares are between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_recall: float = Field(0.9, ge=0, le=1)
    """recall@10 against exact search, for text queries and for image queries"""
    max_recall_drop: float = Field(0.02, ge=0, le=1)
    """by how much that may be less than the served version's: of the same queries; if its vectors are of another model,
    as it was when it was judged"""
    min_alignment: float = Field(0.99, ge=0, le=1)
    """of rows drawn at random that are found by their own vector, and of those that the served version has the same"""
    min_success: float = Field(0.0, ge=0, le=1)
    """of held-out queries that find a right answer among the first 10 of everything"""
    max_success_drop: float = Field(0.05, ge=0, le=1)
    """by how much that may be less than the served version's"""
    max_latency_ms: float = Field(1000.0, gt=0)
    """milliseconds, median of queries asked one at a time"""
    max_queries: int = Field(250, ge=1)
    """queries of each direction, at most"""
    max_update_queries: int = Field(32, ge=1)
    """the same for an update, and of its new rows that many are looked for: the others were judged before"""
    max_sampled_rows: int = Field(200, ge=1)
    """rows of each collection that are looked for by their own vector"""
    seed: int = Field(0, ge=0, lt=2**31)

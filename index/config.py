"""Settings of an index: how it is built (`[index]`), maintained (`[maintenance]`) and gated (`[gate]`)."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from data.config import RERANKED_HITS, SettingsTable

Kind = Literal["image", "caption"]
KINDS: tuple[str, ...] = get_args(Kind)
QuerySource = Literal["held-out", "calibration", "dataset", "self"]
QUERY_SOURCES: dict[QuerySource, str] = {
    "held-out": "held-out queries",
    "calibration": "calibration queries of the model package",
    "dataset": "queries of all splits, the training split included",
    "self": "vectors of the collection itself",
}
"""Where the queries that choose nprobe and measure recall come from, in words."""

EXACT_CODES = ("SQfp16", "Flat")  # codes that lose nothing of the float16 vectors of a shard


def check_kind(kind: str) -> None:
    """Raise ValueError if there are no collections of a kind."""
    if kind not in KINDS:
        raise ValueError(f"Unknown kind {kind!r}; --kind must be one of {', '.join(KINDS)}.")


class IndexConfig(SettingsTable):
    """Settings of a build."""

    factory: str = "auto"
    """FAISS factory string of an IVF index; "{nlist}" is replaced by the number of lists. auto: float16 codes in one
    list up to 5,000 rows (exact search), then PQ fast-scan codes with rescoring: 2 bits per number in one list up to
    50,000 rows, 1 bit per number in lists above (RaBitQ fast-scan if the dimension is not a multiple of 2 or 4)."""
    nlist: int | None = Field(None, ge=1)
    """number of inverted lists per collection; None: 4 sqrt(rows), at least 39 rows per list, rounded down to a power
    of two; with factory auto 1 up to 50,000 rows, then sqrt(rows) or one per 2,000 rows, whichever is more"""
    shards: int = Field(4, ge=1, le=4096)
    """number of base shards per collection; the 64-bit key of a row selects its shard"""
    rescore: int | None = Field(None, ge=0, le=100_000)
    """number of best rows by code per query that are rescored with their uncompressed vectors; 0: the scores of the
    codes are final; None: 0, and for fast-scan codes the smallest of 50, 100, 200, 400, 800 and 1,600 that reaches
    `target_recall` with half of the misses it allows, if all lists are probed"""
    rerank: int = Field(RERANKED_HITS, ge=0, le=10_000)
    """number of best items of the global search per query that are ordered by the combined score of both stages, if the
    model has row vectors; 0: the order of the global search is final. An update may change it"""
    target_recall: float = Field(0.99, gt=0, le=1)
    """recall@10 against exact search, 0 to 1, that nprobe is chosen for"""
    train_rows: int = Field(262_144, ge=1)
    """maximum number of random rows that train the quantizer; more if 39 rows per list need them"""
    tuning_queries: int = Field(2_000, ge=2)
    """maximum number of random queries: one half chooses nprobe, the other half measures its recall"""
    seed: int = Field(0, ge=0, lt=2**31)
    """random seed of samples and k-means"""

    @model_validator(mode="after")
    def _check_nlist(self) -> "IndexConfig":
        if self.nlist is not None and self.factory != "auto" and "{nlist}" not in self.factory:
            raise ValueError(
                f"nlist is {self.nlist}, but factory {self.factory!r} sets the number of lists too. "
                "Write IVF{nlist} in factory, or remove nlist."
            )
        return self


class MaintenanceConfig(SettingsTable):
    """Thresholds from which an update compacts or retrains the index."""

    max_delta_shards: int = Field(8, ge=1)
    """maximum number of delta shards per collection; each query reads all of them"""
    max_delta_fraction: float = Field(0.2, gt=0, le=1)
    """maximum fraction of the rows that are in delta shards"""
    max_deleted_fraction: float = Field(0.05, gt=0, le=1)
    """maximum fraction of deleted rows among the rows in shards"""
    max_drift: float = Field(1.15, gt=1)
    """maximum mean distance of new rows to their nearest centroid, relative to the rows of the full build; above it the
    centroids are retrained"""
    min_drift_fraction: float = Field(0.01, ge=0, le=1)
    """fraction of the rows in delta shards from which `max_drift` applies, so that a few outliers do not count"""
    max_growth: float = Field(2.0, ge=1)
    """maximum number of live rows, relative to the number for which a build would choose more lists, or codes instead
    of exact search; above it the index is rebuilt"""


class GateConfig(SettingsTable):
    """Limits that a version must keep to be published."""

    min_recall: float = Field(0.9, ge=0, le=1)
    """minimum recall@10 against exact search, 0 to 1, for text queries and for image queries"""
    max_recall_drop: float = Field(0.02, ge=0, le=1)
    """maximum loss of recall@10 against the served version, on the same queries; if the vectors are of another model,
    against the recall in the served version's verdict"""
    min_alignment: float = Field(0.99, ge=0, le=1)
    """minimum share of sampled rows that their own vector finds, and of rows that equal those of the served version"""
    min_success: float = Field(0.0, ge=0, le=1)
    """minimum success@10: share of held-out queries with a relevant item among the first 10 results; with row vectors
    it applies without and with reranking"""
    max_success_drop: float = Field(0.05, ge=0, le=1)
    """maximum loss of success@10 against the served version"""
    max_calibration_error: float = Field(0.2, ge=0, le=1)
    """maximum expected calibration error of the probabilities of hits, 0 to 1; it is large for a few dozen queries"""
    max_latency_ms: float = Field(1000.0, gt=0)
    """maximum median time of single queries, in ms"""
    max_removed_fraction: float = Field(0.2, ge=0, le=1)
    """maximum fraction, 0 to 1, of the images and of the captions of the served version that a version no longer has;
    1: no limit"""
    max_removed_rows: int | None = Field(None, ge=0)
    """maximum number of these images and of these captions; None: only the fraction is limited"""
    max_queries: int = Field(250, ge=1)
    """maximum number of queries per direction"""
    max_update_queries: int = Field(32, ge=1)
    """maximum number of queries per direction and of sampled new rows for an update; its other rows passed before"""
    max_sampled_rows: int = Field(200, ge=1)
    """maximum number of rows per collection that are searched by their own vector"""
    seed: int = Field(0, ge=0, lt=2**31)
    """random seed of the sampled rows"""

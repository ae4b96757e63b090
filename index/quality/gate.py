"""The quality gate: compare a candidate with its source vectors, with exact search and with the served version.

Measurements of the served version are taken from its own verdict where they answer the same queries.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from index.building.publish import GateFn
from index.collection import Collection
from index.config import GateConfig, IndexConfig
from index.ivf.vectors import is_in_sorted
from index.quality.audit import audit_version
from index.quality.checks import (
    QUERY_MEASURES,
    RERANKED,
    GateQueries,
    count_removed,
    list_not_checked,
    live_keys,
    match_served_results,
    match_served_vectors,
    match_source_rows,
    match_source_vectors,
    measure_queries,
)
from index.quality.limits import check_calibration, check_latency, check_removed, check_share
from index.quality.verified import find_unmodified, read_stamps, save_stamps
from index.search.index import Index
from index.search.open_collection import OpenCollection
from index.tuning.nprobe import split_queries
from index.versions.manifest import CollectionManifest, ShardManifest
from index.versions.verdict import GateCheck, GateVerdict

OVERRIDE_HINT = (
    " (change the limits in [gate], or publish it anyway with `tern index publish VERSION --override-gate REASON`)"
)
log = logging.getLogger(__name__)


def make_gate(
    config: GateConfig,
    queries: Mapping[str, GateQueries],
    source: Mapping[str, Collection],
    index_config: IndexConfig | None = None,
) -> GateFn:
    """Make a gate for `build_index`, `update_index` and `compact_index`.

    Args:
        queries: By the kind that is searched, all queries of the build; only those that did not choose nprobe are run.
        source: By kind, what the version is built from: its vectors must be stored under their ids.
        index_config: Settings of the build, which determine the queries that chose nprobe; None: the defaults.
    """
    index_config = index_config or IndexConfig()

    def judge(candidate: Index, served: Index | None) -> GateVerdict:
        verified_shards = _find_verified_shards(candidate, served)
        # Before the objects are read: whatever changes meanwhile is noticed at the next gate.
        stamps = read_stamps(candidate.root, [candidate.collection(kind).manifest for kind in candidate.kinds])
        checks = _check_files(candidate, verified_shards)
        test_queries: dict[str, GateQueries] = {}
        is_intact = all(check.passed for check in checks.values())
        if is_intact and served is not None:
            checks |= _check_removed_rows(config, candidate, served)
        kinds = [kind for kind in candidate.kinds if candidate.collection(kind).manifest.counts.live]
        for kind in kinds if is_intact else ():
            comparison = _Comparison(config, candidate, served, kind)
            checks |= comparison.check_vectors(source.get(kind)) | comparison.check_calibration()
            selected = _select_queries(comparison.max_queries, queries.get(kind), index_config)
            if selected is not None:
                test_queries[kind] = selected
                checks |= comparison.check_queries(selected)
        verdict = GateVerdict(
            passed=all(check.passed for check in checks.values()),
            reason=_describe_failures(checks),
            checks=checks,
            query_digests={kind: selected.digest for kind, selected in test_queries.items()},
            query_sources={kind: selected.source for kind, selected in test_queries.items()},
            not_checked=list_not_checked(kinds, test_queries, checks) if is_intact else {},
            compared_with=served.version if served else None,
            config=config.model_dump(mode="json"),
        )
        if verdict.passed:
            save_stamps(candidate.root, stamps)
        return verdict

    return judge


def _check_files(candidate: Index, verified_shards: Sequence[ShardManifest]) -> dict[str, GateCheck]:
    problems = audit_version(candidate, verified_shards=verified_shards)
    return {name: GateCheck(passed=not problem, problem=problem) for name, problem in problems.items()}


def _check_removed_rows(config: GateConfig, candidate: Index, served: Index) -> dict[str, GateCheck]:
    """Limit what disappears from each collection of the served version, whatever model it was built with."""
    checks = {}
    for kind in served.kinds:
        if num_served := served.collection(kind).manifest.counts.live:
            new = candidate.collection(kind) if kind in candidate.kinds else None
            num_removed = count_removed(served.collection(kind), new)
            checks[f"{kind} removed"] = check_removed(config, kind, num_removed, num_served)
    return checks


def _describe_failures(checks: Mapping[str, GateCheck]) -> str:
    """Log every check; return the failed ones in words, with a hint, or "" if all passed."""
    for name, check in checks.items():
        log.log(logging.INFO if check.passed else logging.ERROR, "%s: %s", name, check)
    failed = [f"{name}: {check}" for name, check in checks.items() if not check.passed]
    return "; ".join(failed) + OVERRIDE_HINT if failed else ""


def _select_queries(max_queries: int, queries: GateQueries | None, index_config: IndexConfig) -> GateQueries | None:
    """Return at most `max_queries` of the queries that did not choose nprobe; None without any."""
    if queries is None or queries.count < 2:
        return None
    _, test_half = split_queries(queries.count, index_config.seed, index_config.tuning_queries)
    positions = test_half[:max_queries]
    relevant_ids = None if queries.relevant_ids is None else [queries.relevant_ids[i] for i in positions]
    vectors = np.ascontiguousarray(queries.vectors[positions], np.float32)
    rows = None if queries.rows is None else queries.rows.select(positions)
    return GateQueries(vectors, relevant_ids, queries.source, rows=rows)


def _has_same_model(candidate: Index, served: Index | None, kind: str) -> bool:
    """Return whether the served version has rows of the same model.

    Then the same queries can be run on it.
    """
    if served is None or candidate.manifest.provenance != served.manifest.provenance:
        return False
    return kind in served.kinds and served.collection(kind).manifest.counts.live > 0


def _is_update_of_served(candidate: Index, served: Index | None, kind: str) -> bool:
    """Return whether the candidate is the served version plus delta shards."""
    if served is None or not _has_same_model(candidate, served, kind):
        return False
    new, old = candidate.collection(kind).manifest, served.collection(kind).manifest
    return new.vector_space == old.vector_space and any(shard.role == "delta" for shard in new.shards)


def _find_verified_shards(candidate: Index, served: Index | None) -> list[ShardManifest]:
    """Return the shards of an update that the served version has too, unmodified since their gate."""
    shared: list[ShardManifest] = []
    for kind in candidate.kinds:
        if served is not None and _is_update_of_served(candidate, served, kind):
            served_shards = served.collection(kind).manifest.shards
            shared += [shard for shard in candidate.collection(kind).manifest.shards if shard in served_shards]
    return find_unmodified(candidate.root, shared)


def _must_match_results(candidate: CollectionManifest, served: CollectionManifest) -> bool:
    """Return whether equal rows must give equal results, as after a compaction."""
    parameters = ((one.vector_space, one.search.nprobe, one.search.rescore) for one in (candidate, served))
    return len(set(parameters)) == 1


class _Comparison:
    """Checks of one collection of a candidate."""

    def __init__(self, config: GateConfig, candidate: Index, served: Index | None, kind: str):
        self._config, self._kind = config, kind
        self._collection = candidate.collection(kind)
        self._served_gate = served.manifest.gate if served else None
        self._served: OpenCollection | None = None
        if served is not None and _has_same_model(candidate, served, kind):
            self._served = served.collection(kind)
        self._is_update = _is_update_of_served(candidate, served, kind)
        self.max_queries = config.max_update_queries if self._is_update else config.max_queries

    def check_vectors(self, source: Collection | None) -> dict[str, GateCheck]:
        """Check that vectors are stored under their ids, and like in the served version.

        The sampled rows of an update are drawn from its new rows: a sample of all would hardly contain one.
        """
        config, collection, rng = self._config, self._collection, np.random.default_rng(self._config.seed)
        keys = live_keys(collection)
        served_keys = live_keys(self._served) if self._served else keys[:0]
        is_served = is_in_sorted(keys, served_keys)
        pool = keys[~is_served] if self._is_update and not is_served.all() else keys
        max_rows = config.max_update_queries if self._is_update else config.max_sampled_rows
        sample = rng.choice(pool, min(max_rows, len(pool)), replace=False)
        matches = match_source_vectors(collection, source, sample)
        is_complete = len(matches) == len(pool)
        checks = {f"{self._kind} alignment": check_share(matches, config.min_alignment, is_complete=is_complete)}
        if collection.row_vectors is not None:
            matches = match_source_rows(collection, source, sample)
            checks[f"{self._kind} row vectors"] = check_share(matches, config.min_alignment, is_complete=is_complete)
        if self._served is None or not len(shared_keys := keys[is_served]):
            return checks
        sample = rng.choice(shared_keys, min(config.max_sampled_rows, len(shared_keys)), replace=False)
        is_complete = len(sample) == len(shared_keys)
        matches = match_served_vectors(collection, self._served, sample)
        checks[f"{self._kind} unchanged"] = check_share(matches, config.min_alignment, is_complete=is_complete)
        has_same_rows = len(shared_keys) == len(keys) == len(served_keys)
        if has_same_rows and _must_match_results(collection.manifest, self._served.manifest):
            matches = match_served_results(collection, self._served, sample)
            checks[f"{self._kind} results"] = check_share(matches, config.min_alignment, is_complete=is_complete)
        return checks

    def check_calibration(self) -> dict[str, GateCheck]:
        """Check the error of the probabilities of hits, if the collection is calibrated."""
        calibration, max_error = self._collection.manifest.calibration, self._config.max_calibration_error
        return {} if calibration is None else {f"{self._kind} calibration": check_calibration(calibration, max_error)}

    def check_queries(self, queries: GateQueries) -> dict[str, GateCheck]:
        """Check recall of the global search, success@10 without and with reranking, and latency."""
        config = self._config
        values_by_measure, latency_ms = measure_queries(self._collection, queries)
        served_values = self._measure_served(queries)
        limits = {
            "recall": (config.min_recall, config.max_recall_drop),
            **dict.fromkeys(("success@10", RERANKED), (config.min_success, config.max_success_drop)),
        }
        checks = {}
        for measure, values in values_by_measure.items():
            minimum, max_drop = limits[measure]
            served_value = served_values.get(measure)
            if served_value is not None:
                minimum = max(minimum, served_value - max_drop)
            checks[f"{self._kind} {measure}"] = check_share(values, minimum, served_value)
        return checks | {f"{self._kind} latency": check_latency(latency_ms, config.max_latency_ms)}

    def _measure_served(self, queries: GateQueries) -> dict[str, float]:
        """Return recall and success@10 of the served version.

        They are read from its verdict if its vectors are of another model, if it was judged by the same queries, or if
        the candidate is an update of it; else the queries are run on it. Values of queries from another source, such as
        captions that the dataset no longer has, are not compared.
        """
        recorded: dict[str, float] = {}
        gate, kind = self._served_gate, self._kind
        if gate is not None and gate.query_sources.get(kind, "held-out") == queries.source:
            checks = {measure: gate.checks.get(f"{kind} {measure}") for measure in (*QUERY_MEASURES, RERANKED)}
            recorded = {name: one.value for name, one in checks.items() if one is not None and one.value is not None}
        has_same_queries = gate is not None and gate.query_digests.get(kind) == queries.digest
        if self._served is None or has_same_queries or (recorded and self._is_update):
            return recorded
        measured, _ = measure_queries(self._served, queries)
        return {measure: float(np.mean(values)) for measure, values in measured.items()}

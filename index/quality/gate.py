"""The gate before the switch: a candidate beside what it was made of, exact search, and the version that is served.

The served version need not be asked again what it was asked when it was judged.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from index.building.publish import GateFn
from index.collection import Collection
from index.config import GateConfig, IndexConfig
from index.ivf.vectors import is_in_sorted
from index.quality.audit import audit_version
from index.quality.checks import (
    HeldOutQueries,
    check_latency,
    check_share,
    format_check,
    live_keys,
    match_served_results,
    match_served_vectors,
    match_source_vectors,
    measure_queries,
)
from index.quality.verified import find_unmodified, read_stamps, save_stamps
from index.search.index import Index
from index.tuning.nprobe import split_queries
from index.versions.manifest import CollectionManifest, ShardManifest

OVERRIDE_HINT = (
    " (the limits are the settings of [gate]; `tern index publish VERSION --override-gate REASON` serves it on purpose)"
)
log = logging.getLogger(__name__)


def make_gate(
    config: GateConfig,
    queries: Mapping[str, HeldOutQueries],
    source: Mapping[str, Collection],
    index_config: IndexConfig | None = None,
) -> GateFn:
    """A gate for `build`, `update` and `compact`.

    asked     by the kind that is asked for, all that a build is given; those that did not choose nprobe are used
    source    what the version is made of, by kind: its vectors must come back under their ids
    tuned_by  the settings of the build, which say which those are
    """
    drawn_by = index_config or IndexConfig()

    def judge(candidate: Index, served: Index | None) -> dict[str, Any]:
        known = _known(candidate, served)
        # Before they are read: what changes meanwhile is seen the next time.
        seen = read_stamps(candidate.root, [candidate.collection(kind).manifest for kind in candidate.kinds])
        checks = {
            what: {"passed": not fault, "problem": fault}
            for what, fault in audit_version(candidate, verified_shards=known).items()
        }
        questions: dict[str, str] = {}
        filled = [kind for kind in candidate.kinds if candidate.collection(kind).manifest.counts.live]
        for kind in filled if all(check["passed"] for check in checks.values()) else ():
            checks |= _placed(config, candidate, served, kind, source.get(kind))
            most = config.max_update_queries if _grown(candidate, served, kind) else config.max_queries
            if kind in queries and (judging := _judging(most, queries[kind], drawn_by)).count:
                questions[kind] = judging.digest
                checks |= _asked(config, candidate, served, kind, judging)
        for name, check in checks.items():
            log.log(logging.INFO if check["passed"] else logging.ERROR, "%s: %s", name, format_check(check))
        failed = [f"{name}: {format_check(check)}" for name, check in checks.items() if not check["passed"]]
        if not failed:
            save_stamps(candidate.root, seen)
        return {
            "passed": not failed,
            "reason": "; ".join(failed) + (OVERRIDE_HINT if failed else ""),
            "checks": checks,
            "query_digests": questions,
            "compared_with": served.version if served else None,
            "config": config.model_dump(mode="json"),
        }

    return judge


def _judging(most: int, asked: HeldOutQueries, drawn_by: IndexConfig) -> HeldOutQueries:
    places = split_queries(asked.count, drawn_by.seed, drawn_by.tuning_queries)[1][:most]
    right = None if asked.relevant_ids is None else [asked.relevant_ids[i] for i in places]
    return HeldOutQueries(np.ascontiguousarray(asked.vectors[places], np.float32), right)


def _kin(candidate: Index, served: Index | None, kind: str) -> bool:
    """Whether the served version has vectors of the same model: only then can it be asked the same questions."""
    if served is None or candidate.manifest["provenance"] != served.manifest["provenance"]:
        return False
    return kind in served.kinds and served.collection(kind).manifest.counts.live > 0


def _grown(candidate: Index, served: Index | None, kind: str) -> bool:
    """Whether the candidate is the served version with delta shards."""
    if not _kin(candidate, served, kind):
        return False
    ours, theirs = candidate.collection(kind).manifest, served.collection(kind).manifest
    return ours.vector_space == theirs.vector_space and any(shard.role == "delta" for shard in ours.shards)


def _known(candidate: Index, served: Index | None) -> list[ShardManifest]:
    """The shards that an update has from the served version, and that nothing has touched since they passed a gate."""
    both = []
    for kind in candidate.kinds:
        if _grown(candidate, served, kind):
            theirs = served.collection(kind).manifest.shards
            both += [shard for shard in candidate.collection(kind).manifest.shards if shard in theirs]
    return find_unmodified(candidate.root, both)


def _placed(
    config: GateConfig, candidate: Index, served: Index | None, kind: str, source: Collection | None
) -> dict[str, Any]:
    """Whether vectors stand under their ids, and where they are served.

    Of an update the rows that are looked for are drawn from its new ones: among all they would hardly be met.
    """
    mine, draw = candidate.collection(kind), np.random.default_rng(config.seed)
    keys = live_keys(mine)
    before = live_keys(served.collection(kind)) if _kin(candidate, served, kind) else keys[:0]
    old = is_in_sorted(keys, before)
    grown = _grown(candidate, served, kind)
    pool, most = (
        keys[~old] if grown and not old.all() else keys,
        config.max_update_queries if grown else config.max_sampled_rows,
    )
    found = match_source_vectors(mine, source, draw.choice(pool, min(most, len(pool)), replace=False))
    checks = {f"{kind} alignment": check_share(found, config.min_alignment, every=len(found) == len(pool))}
    if len(both := keys[old]):
        some = draw.choice(both, min(config.max_sampled_rows, len(both)), replace=False)
        theirs, every = served.collection(kind), len(some) == len(both)
        checks[f"{kind} unchanged"] = check_share(
            match_served_vectors(mine, theirs, some), config.min_alignment, every=every
        )
        if len(both) == len(keys) == len(before) and _alike(mine.manifest, theirs.manifest):
            checks[f"{kind} results"] = check_share(
                match_served_results(mine, theirs, some), config.min_alignment, every=every
            )
    return checks


def _alike(ours: CollectionManifest, theirs: CollectionManifest) -> bool:
    """Whether the same rows must give the same answers, as after a compaction."""
    return ours.vector_space == theirs.vector_space and ours.search == theirs.search


def _asked(
    config: GateConfig, candidate: Index, served: Index | None, kind: str, asked: HeldOutQueries
) -> dict[str, Any]:
    """Recall against exact search, right answers and time, of the candidate and of what is served."""
    ours, took = measure_queries(candidate.collection(kind), asked)
    theirs = _of_served(candidate, served, kind, asked)
    limits = {
        "recall": (config.min_recall, config.max_recall_drop),
        "success@10": (config.min_success, config.max_success_drop),
    }
    checks = {}
    for name, values in ours.items():
        least, drop = limits[name]
        before = theirs.get(name)
        checks[f"{kind} {name}"] = check_share(values, least if before is None else max(least, before - drop), before)
    return checks | {f"{kind} latency": check_latency(took, config.max_latency_ms)}


def _of_served(candidate: Index, served: Index | None, kind: str, asked: HeldOutQueries) -> dict[str, float]:
    """What the served version gave when it was judged, by its own model; asked now if it was asked other things.

    For an update its own verdict always stands, if it has one.
    """
    verdict = (served.manifest["gate"] if served else None) or {}
    checks = verdict.get("checks") or {}
    known = {name: checks.get(f"{kind} {name}") for name in ("recall", "success@10")}
    found = {name: check["value"] for name, check in known.items() if isinstance(check, dict) and "value" in check}
    same = verdict.get("query_digests", {}).get(kind) == asked.digest
    if not _kin(candidate, served, kind) or same or (found and _grown(candidate, served, kind)):
        return found
    measured, _ = measure_queries(served.collection(kind), asked)
    return {name: float(np.mean(values)) for name, values in measured.items()}

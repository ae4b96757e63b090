"""The gate before the switch: a candidate beside what it was made of, exact search, and the version that is served.

The served version need not be asked again what it was asked when it was judged.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from index.audit import audit
from index.build import IndexConfig
from index.checks import Asked, aligned, alive, answered, judged, quick, same_answers, told, unchanged
from index.collection import Collection
from index.manifest import About, Shard
from index.publish import Gate
from index.search import Index
from index.tune import halves
from index.vectors import among
from index.verified import note, stamps, untouched

WAY_OUT = " (the limits are the settings of [gate]; `tern index publish VERSION --despite REASON` serves it on purpose)"
log = logging.getLogger(__name__)


class GateConfig(BaseModel):
    """What a version must reach to be served. Shares are between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float = Field(0.9, ge=0, le=1)
    """recall@10 against exact search, for text queries and for image queries"""
    recall_drop: float = Field(0.02, ge=0, le=1)
    """by how much that may be less than the served version's: of the same queries; if its vectors are of another model,
    as it was when it was judged"""
    aligned: float = Field(0.99, ge=0, le=1)
    """of rows drawn at random that are found by their own vector, and of those that the served version has the same"""
    golden: float = Field(0.0, ge=0, le=1)
    """of held-out queries that find a right answer among the first 10 of everything"""
    golden_drop: float = Field(0.05, ge=0, le=1)
    """by how much that may be less than the served version's"""
    latency: float = Field(1000.0, gt=0)
    """milliseconds, median of queries asked one at a time"""
    queries: int = Field(250, ge=1)
    """queries of each direction, at most"""
    delta_queries: int = Field(32, ge=1)
    """the same for an update, and of its new rows that many are looked for: the others were judged before"""
    probes: int = Field(200, ge=1)
    """rows of each collection that are looked for by their own vector"""
    seed: int = Field(0, ge=0, lt=2**31)


def gate_of(
    config: GateConfig,
    asked: Mapping[str, Asked],
    source: Mapping[str, Collection],
    tuned_by: IndexConfig | None = None,
) -> Gate:
    """A gate for `build`, `update` and `compact`.

    asked     by the kind that is asked for, all that a build is given; those that did not choose nprobe are used
    source    what the version is made of, by kind: its vectors must come back under their ids
    tuned_by  the settings of the build, which say which those are
    """
    drawn_by = tuned_by or IndexConfig()

    def judge(candidate: Index, served: Index | None) -> dict[str, Any]:
        known = _known(candidate, served)
        # Before they are read: what changes meanwhile is seen the next time.
        seen = stamps(candidate.root, [candidate.collection(kind).about for kind in candidate.kinds])
        checks = {what: {"passed": not fault, "fault": fault} for what, fault in audit(candidate, known=known).items()}
        questions: dict[str, str] = {}
        filled = [kind for kind in candidate.kinds if candidate.collection(kind).about.counts.live]
        for kind in filled if all(check["passed"] for check in checks.values()) else ():
            checks |= _placed(config, candidate, served, kind, source.get(kind))
            most = config.delta_queries if _grown(candidate, served, kind) else config.queries
            if kind in asked and (judging := _judging(most, asked[kind], drawn_by)).count:
                questions[kind] = judging.digest
                checks |= _asked(config, candidate, served, kind, judging)
        for name, check in checks.items():
            log.log(logging.INFO if check["passed"] else logging.ERROR, "%s: %s", name, told(check))
        failed = [f"{name}: {told(check)}" for name, check in checks.items() if not check["passed"]]
        if not failed:
            note(candidate.root, seen)
        return {
            "passed": not failed,
            "reason": "; ".join(failed) + (WAY_OUT if failed else ""),
            "checks": checks,
            "questions": questions,
            "against": served.version if served else None,
            "config": config.model_dump(mode="json"),
        }

    return judge


def _judging(most: int, asked: Asked, drawn_by: IndexConfig) -> Asked:
    places = halves(asked.count, drawn_by.seed, drawn_by.query_rows)[1][:most]
    right = None if asked.right is None else [asked.right[i] for i in places]
    return Asked(np.ascontiguousarray(asked.vectors[places], np.float32), right)


def _kin(candidate: Index, served: Index | None, kind: str) -> bool:
    """Whether the served version has vectors of the same model: only then can it be asked the same questions."""
    if served is None or candidate.manifest["provenance"] != served.manifest["provenance"]:
        return False
    return kind in served.kinds and served.collection(kind).about.counts.live > 0


def _grown(candidate: Index, served: Index | None, kind: str) -> bool:
    """Whether the candidate is the served version with delta shards."""
    if not _kin(candidate, served, kind):
        return False
    ours, theirs = candidate.collection(kind).about, served.collection(kind).about
    return ours.generation == theirs.generation and any(shard.role == "delta" for shard in ours.shards)


def _known(candidate: Index, served: Index | None) -> list[Shard]:
    """The shards that an update has from the served version, and that nothing has touched since they passed a gate."""
    both = []
    for kind in candidate.kinds:
        if _grown(candidate, served, kind):
            theirs = served.collection(kind).about.shards
            both += [shard for shard in candidate.collection(kind).about.shards if shard in theirs]
    return untouched(candidate.root, both)


def _placed(
    config: GateConfig, candidate: Index, served: Index | None, kind: str, source: Collection | None
) -> dict[str, Any]:
    """Whether vectors stand under their ids, and where they are served.

    Of an update the rows that are looked for are drawn from its new ones: among all they would hardly be met.
    """
    mine, draw = candidate.collection(kind), np.random.default_rng(config.seed)
    keys = alive(mine)
    before = alive(served.collection(kind)) if _kin(candidate, served, kind) else keys[:0]
    old = among(keys, before)
    grown = _grown(candidate, served, kind)
    pool, most = keys[~old] if grown and not old.all() else keys, config.delta_queries if grown else config.probes
    found = aligned(mine, source, draw.choice(pool, min(most, len(pool)), replace=False))
    checks = {f"{kind} alignment": judged(found, config.aligned, every=len(found) == len(pool))}
    if len(both := keys[old]):
        some = draw.choice(both, min(config.probes, len(both)), replace=False)
        theirs, every = served.collection(kind), len(some) == len(both)
        checks[f"{kind} unchanged"] = judged(unchanged(mine, theirs, some), config.aligned, every=every)
        if len(both) == len(keys) == len(before) and _alike(mine.about, theirs.about):
            checks[f"{kind} answers"] = judged(same_answers(mine, theirs, some), config.aligned, every=every)
    return checks


def _alike(ours: About, theirs: About) -> bool:
    """Whether the same rows must give the same answers, as after a compaction."""
    return ours.generation == theirs.generation and ours.search == theirs.search


def _asked(config: GateConfig, candidate: Index, served: Index | None, kind: str, asked: Asked) -> dict[str, Any]:
    """Recall against exact search, right answers and time, of the candidate and of what is served."""
    ours, took = answered(candidate.collection(kind), asked)
    theirs = _of_served(candidate, served, kind, asked)
    limits = {"recall": (config.recall, config.recall_drop), "golden": (config.golden, config.golden_drop)}
    checks = {}
    for name, values in ours.items():
        least, drop = limits[name]
        before = theirs.get(name)
        checks[f"{kind} {name}"] = judged(values, least if before is None else max(least, before - drop), before)
    return checks | {f"{kind} latency": quick(took, config.latency)}


def _of_served(candidate: Index, served: Index | None, kind: str, asked: Asked) -> dict[str, float]:
    """What the served version gave when it was judged, by its own model; asked now if it was asked other things.

    For an update its own verdict always stands, if it has one.
    """
    verdict = (served.manifest["gate"] if served else None) or {}
    checks = verdict.get("checks") or {}
    known = {name: checks.get(f"{kind} {name}") for name in ("recall", "golden")}
    found = {name: check["found"] for name, check in known.items() if isinstance(check, dict) and "found" in check}
    same = verdict.get("questions", {}).get(kind) == asked.digest
    if not _kin(candidate, served, kind) or same or (found and _grown(candidate, served, kind)):
        return found
    measured, _ = answered(served.collection(kind), asked)
    return {name: float(np.mean(values)) for name, values in measured.items()}

"""The gate before the switch: a candidate beside what it was made of, exact search, and the version that is served.

A share is refused only if it lies below its limit by more than twice its standard error: few queries prove little.
"""

import logging
import math
import time
from collections.abc import Collection as Ids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from index.audit import audit
from index.collection import Collection
from index.parts import read_dead
from index.publish import Gate
from index.search import Index
from index.tune import AT, halves, kth_score, recall

NEAR = 2e-3  # of a cosine: two float16 roundings of one unit vector are nearer
TIMED = 32  # queries, one at a time
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
    queries: int = Field(500, ge=1)
    """queries of each direction, at most"""
    delta_queries: int = Field(32, ge=1)
    """the same for an update, and of its new rows that many are looked for: the others were judged before"""
    probes: int = Field(200, ge=1)
    """rows of each collection that are looked for by their own vector"""
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(frozen=True)
class Asked:
    """Held-out queries of one direction.

    vectors  (q, d) unit vectors of the other kind: sentences ask for images, photographs for captions
    right    for each query the ids of its right answers, where they are known
    """

    vectors: np.ndarray
    right: Sequence[Ids[str]] | None = None


def gate_of(
    config: GateConfig, asked: Mapping[str, Asked], source: Mapping[str, Collection], tuned_with: int = 0
) -> Gate:
    """A gate for `build` and `publish`.

    asked       by the kind that is asked for; the half that did not choose nprobe is used
    source      what the version is made of, by kind: its vectors must come back under their ids
    tuned_with  `IndexConfig.seed`, which says which half that is
    """

    def judge(candidate: Index, served: Index | None) -> dict[str, Any]:
        checks = {what: {"passed": not fault, "fault": fault} for what, fault in audit(candidate).items()}
        if all(check["passed"] for check in checks.values()):
            for kind in candidate.kinds:
                checks |= _aligned(config, candidate, served, kind, source.get(kind))
                if kind in asked:
                    most = config.delta_queries if _grown(candidate, served, kind) else config.queries
                    checks |= _asked(config, candidate, served, kind, _judging(most, asked[kind], tuned_with))
        for name, check in checks.items():
            log.log(logging.INFO if check["passed"] else logging.ERROR, "%s: %s", name, _told(check))
        failed = [f"{name}: {_told(check)}" for name, check in checks.items() if not check["passed"]]
        return {
            "passed": not failed,
            "reason": "; ".join(failed) + (" (the limits are the settings of [gate])" if failed else ""),
            "checks": checks,
            "against": served.version if served else None,
            "config": config.model_dump(mode="json"),
        }

    return judge


def _judging(most: int, asked: Asked, seed: int) -> Asked:
    places = halves(len(asked.vectors), seed)[1][:most]
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


def _alive(index: Index, kind: str) -> np.ndarray:
    """(n,) int64 keys of a collection's living rows, ascending."""
    opened = index.collection(kind)
    keys = np.concatenate([shard.keys for shard in opened.vectors.shards])
    return np.setdiff1d(keys, read_dead(index.root, opened.about.dead), assume_unique=True)


def _recorded(served: Index | None, kind: str) -> dict[str, float]:
    """What the served version gave when it was judged, by its own model."""
    checks = ((served.manifest["gate"] if served else None) or {}).get("checks") or {}
    known = {name: checks.get(f"{kind} {name}") for name in ("recall", "golden")}
    return {name: check["found"] for name, check in known.items() if isinstance(check, dict) and "found" in check}


def _aligned(
    config: GateConfig, candidate: Index, served: Index | None, kind: str, source: Collection | None
) -> dict[str, dict[str, Any]]:
    """Rows drawn at random, looked for by the vector that their id has in the source; and as they are served.

    Of an update they are drawn from its new rows: among all they would hardly be met.
    """
    opened, draw = candidate.collection(kind), np.random.default_rng(config.seed)
    alive, kin = _alive(candidate, kind), _kin(candidate, served, kind)
    if not len(alive):
        return {}
    before = _alive(served, kind) if kin else alive[:0]
    new = np.setdiff1d(alive, before, assume_unique=True)
    pool, most = (new, config.delta_queries) if _grown(candidate, served, kind) and len(new) else (alive, config.probes)
    keys = draw.choice(pool, min(most, len(pool)), replace=False)
    stored = opened.vectors.get(keys).astype(np.float32)
    rows = opened.rows.by_key(keys.tolist())
    given = stored if source is None else source.read([rows[key]["id"] for key in keys.tolist()])
    usual = opened.about.search
    scores, found = opened.lists.search(given, AT, usual.nprobe, rescore=usual.rescore)
    # More than ten equal vectors crowd each other out: then the last of the ten is as good as the row itself.
    seen = (found == keys[:, None]).any(axis=1) | (scores[:, -1] >= 1 - NEAR)
    checks = {f"{kind} alignment": _share(seen & _same(given, stored), config.aligned)}
    if kin:
        both = np.intersect1d(alive, before, assume_unique=True)
        both = draw.choice(both, min(config.probes, len(both)), replace=False)
        if len(both):
            same = _same(opened.vectors.get(both), served.collection(kind).vectors.get(both))
            checks[f"{kind} unchanged"] = _share(same, config.aligned)
    return checks


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(m,) whether unit vectors (m, d) are the same but for rounding."""
    return np.einsum("md,md->m", one.astype(np.float32), other.astype(np.float32)) >= 1 - NEAR


def _asked(config: GateConfig, candidate: Index, served: Index | None, kind: str, asked: Asked) -> dict[str, Any]:
    """Recall against exact search, right answers and time, of the candidate and of what is served."""
    if not len(asked.vectors) or not candidate.collection(kind).about.counts.live:
        return {}
    ours = _measured(candidate, kind, asked)
    theirs = _recorded(served, kind)
    if _kin(candidate, served, kind) and not (theirs and _grown(candidate, served, kind)):
        theirs = _measured(served, kind, asked)
    checks, count = {}, len(asked.vectors)
    for name, least, drop in (
        ("recall", config.recall, config.recall_drop),
        ("golden", config.golden, config.golden_drop),
    ):
        if name not in ours:
            continue
        limit = least if name not in theirs else max(least, theirs[name] - drop)
        checks[f"{kind} {name}"] = _judged(ours[name], limit, count, theirs.get(name))
    slow = {
        "found": ours["ms"],
        "at most": config.latency,
        "passed": ours["ms"] <= config.latency,
        "unit": "ms a query",
    }
    return checks | {f"{kind} latency": slow}


def _measured(index: Index, kind: str, asked: Asked) -> dict[str, float]:
    opened = index.collection(kind)
    usual, alive = opened.about.search, _alive(index, kind)
    whole = Collection(alive.tolist(), lambda keys: opened.vectors.get(np.asarray(keys)), ())  # under keys, not ids
    _, keys = opened.lists.search(asked.vectors, AT, usual.nprobe, rescore=usual.rescore)
    found = {"recall": recall(opened.vectors.get, asked.vectors, kth_score(whole, asked.vectors), keys)}
    if asked.right is not None:
        ids = {key: row["id"] for key, row in opened.rows.by_key(np.unique(keys).tolist()).items()}
        hits = [any(ids[key] in right for key in line) for line, right in zip(keys.tolist(), asked.right, strict=True)]
        found["golden"] = float(np.mean(hits))
    times = []
    for query in asked.vectors[:TIMED]:
        began = time.perf_counter()
        opened.lists.search(query[None], AT, usual.nprobe, rescore=usual.rescore)
        times.append(time.perf_counter() - began)
    return found | {"ms": round(1e3 * float(np.median(times)), 3)}


def _share(right: np.ndarray, least: float) -> dict[str, Any]:
    return _judged(float(np.mean(right)), least, len(right), None)


def _judged(found: float, least: float, count: int, served: float | None) -> dict[str, Any]:
    """A share of `count` against its limit: refused if two standard errors do not reach it."""
    doubt = 2 * math.sqrt(found * (1 - found) / count)
    check = {"found": round(found, 4), "at least": round(least, 4), "of": count, "passed": found + doubt >= least}
    return check if served is None else check | {"served": round(served, 4)}


def _told(check: Mapping[str, Any]) -> str:
    if "fault" in check:
        return check["fault"] or "as the manifest says"
    limit = "at least" if "at least" in check else "at most"
    served = f", served {check['served']:g}" if "served" in check else ""
    of = f" of {check['of']}" if "of" in check else f" {check['unit']}"
    return f"{check['found']:g}{of}, {limit} {check[limit]:g} is asked{served}"

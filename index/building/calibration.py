"""Calibration of the scores of a collection as a step of a build or an update."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from data.io import digest
from index.building.publish import OnStep
from index.collection import Collection, IndexInputs, QueryLabels
from index.config import IndexConfig, QuerySource
from index.search.rerank import Reranking
from index.tuning.calibrate import FIT_VERSION, calibrate_scores
from index.versions.calibration import ScoreCalibration
from index.versions.manifest import CollectionManifest
from index.versions.objects import ManifestModel, Staging

MAX_GROWTH = 1.2  # of the live rows, either way, for which an update keeps the calibration


class _Calibrated(ManifestModel):
    calibration: ScoreCalibration | None


@dataclass(frozen=True)
class CalibrationStep:
    """Everything that determines the calibration of a collection."""

    kind: str
    collection: Collection
    queries: np.ndarray
    """(q, d) float32"""
    labels: QueryLabels
    query_source: QuerySource
    seed: int
    reranking: Reranking | None = None
    """what reranks the hits of the queries; None: their scores are those of the global search"""

    @property
    def digest(self) -> str:
        """12 hex digits of queries and labels, and of the way to fit."""
        facts = [FIT_VERSION, sha256(self.queries.tobytes()).hexdigest(), self.labels.digest, self.query_source]
        return digest(facts if self.reranking is None else [*facts, self.reranking.digest])

    def is_due(self, manifest: CollectionManifest, num_live_rows: int) -> bool:
        """Return whether a collection needs this calibration: it has none, or one that no longer fits.

        The best of more items has a higher score, whether or not it is right; reranked hits have other scores.
        """
        found = manifest.calibration
        if found is None or found.is_combined != (self.reranking is not None):
            return True
        return not _is_fitted_for(found, num_live_rows)

    def run(self, staging: Staging, on_step: OnStep) -> ScoreCalibration | None:
        """Fit the calibration, or read it if an interrupted run has fitted it."""
        name = f"{self.kind}/calibrated"

        def fit() -> _Calibrated:
            found = calibrate_scores(
                self.collection, self.queries, self.labels, self.query_source, self.seed, self.reranking
            )
            return _Calibrated(calibration=found)

        calibrated = staging.run_step(name, _Calibrated, fit)
        on_step(name)
        return calibrated.calibration


def _is_fitted_for(calibration: ScoreCalibration, num_live_rows: int) -> bool:
    return calibration.rows / MAX_GROWTH <= num_live_rows <= calibration.rows * MAX_GROWTH


def find_other_calibration(kind: str, inputs: IndexInputs) -> ScoreCalibration | None:
    """Find the calibration that a build takes from another index; None if it has no such one, or one that does not fit.

    Queries with known relevant items are better: they are compared with the collection itself.
    """
    found = inputs.calibrations.get(kind)
    has_labels = kind in inputs.labels
    return found if found and not has_labels and _is_fitted_for(found, len(inputs.collections[kind].ids)) else None


def prepare_calibration(kind: str, inputs: IndexInputs, config: IndexConfig) -> CalibrationStep | None:
    """Prepare the calibration of a collection; None if the relevant items of its queries are unknown."""
    if (labels := inputs.labels.get(kind)) is None:
        return None
    queries = np.ascontiguousarray(inputs.queries[kind], np.float32)
    source = inputs.query_sources.get(kind, "held-out")
    collection, query_rows = inputs.collections[kind], inputs.query_rows.get(kind)
    reranking = None
    if collection.rows is not None and query_rows is not None and config.rerank:
        reranking = Reranking(query_rows, inputs.alignment_weight, config.rerank)
    return CalibrationStep(kind, collection, queries, labels, source, config.seed, reranking)

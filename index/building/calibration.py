"""Calibration of the scores of a collection as a step of a build or an update."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from data.io import digest
from index.building.publish import OnStep
from index.collection import Collection, IndexInputs, QueryLabels
from index.config import QuerySource
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

    @property
    def digest(self) -> str:
        """12 hex digits of queries and labels, and of the way to fit."""
        return digest([FIT_VERSION, sha256(self.queries.tobytes()).hexdigest(), self.labels.digest, self.query_source])

    def run(self, staging: Staging, on_step: OnStep) -> ScoreCalibration | None:
        """Fit the calibration, or read it if an interrupted run has fitted it."""
        name = f"{self.kind}/calibrated"

        def fit() -> _Calibrated:
            found = calibrate_scores(self.collection, self.queries, self.labels, self.query_source, self.seed)
            return _Calibrated(calibration=found)

        calibrated = staging.run_step(name, _Calibrated, fit)
        on_step(name)
        return calibrated.calibration


def prepare_calibration(kind: str, inputs: IndexInputs, seed: int) -> CalibrationStep | None:
    """Prepare the calibration of a collection; None if the relevant items of its queries are unknown."""
    if (labels := inputs.labels.get(kind)) is None:
        return None
    queries = np.ascontiguousarray(inputs.queries[kind], np.float32)
    source = inputs.query_sources.get(kind, "held-out")
    return CalibrationStep(kind, inputs.collections[kind], queries, labels, source, seed)


def is_outgrown(manifest: CollectionManifest, num_live_rows: int) -> bool:
    """Return whether a collection has become too large or too small for its calibration, or has none.

    The best of more items has a higher score, whether or not it is right.
    """
    found = manifest.calibration
    return found is None or not found.rows / MAX_GROWTH <= num_live_rows <= found.rows * MAX_GROWTH

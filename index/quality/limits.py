"""Comparison of the measurements of the gate with their limits."""

import math

import numpy as np

from index.config import GateConfig
from index.versions.calibration import ScoreCalibration
from index.versions.verdict import GateCheck


def check_removed(config: GateConfig, kind: str, num_removed: int, num_served: int) -> GateCheck:
    """Compare the rows of the served version that a version no longer has with the limits."""
    limit = config.max_removed_fraction
    if config.max_removed_rows is not None:
        limit = min(limit, config.max_removed_rows / num_served)
    passed = num_removed <= limit * num_served
    problem = (
        f"{num_removed:,} of {num_served:,} {kind}s of the served version are gone: check that the folder of the "
        "dataset is mounted and complete, and run the same command again. If they were removed on purpose, set "
        "gate.max_removed_fraction"
    )
    return GateCheck(
        passed=passed,
        value=round(num_removed / num_served, 4),
        max=round(limit, 4),
        count=num_served,
        problem=None if passed else problem,
    )


def check_latency(latency_ms: float, max_latency_ms: float) -> GateCheck:
    """Compare the time of a query with its limit."""
    value = round(latency_ms, 3)
    return GateCheck(passed=latency_ms <= max_latency_ms, value=value, max=max_latency_ms, unit="ms per query")


def check_calibration(calibration: ScoreCalibration, max_error: float) -> GateCheck:
    """Compare the expected calibration error with its limit."""
    found = calibration.reliability
    return GateCheck(passed=found.error <= max_error, value=found.error, max=max_error, count=found.num_queries)


def check_share(
    values: np.ndarray, minimum: float, served_value: float | None = None, is_complete: bool = False
) -> GateCheck:
    """Compare the mean of values from 0 to 1 with its limit.

    The check fails if the mean plus two standard errors is below the limit.

    The variance is that of the values and one more, at a distance of 1 from their mean: three equal values are no
    certainty.

    Args:
        served_value: The mean in the served version, for the report.
        is_complete: The values are all that exist and not a sample, so there is no standard error.
    """
    values = values.astype(np.float64)
    mean, count = float(values.mean()), len(values)
    margin = 0.0 if is_complete else 2 * math.sqrt(((values - mean) ** 2).sum() + 1) / count
    return GateCheck(
        passed=mean + margin >= minimum,
        value=round(mean, 4),
        min=round(minimum, 4),
        count=count,
        served_value=None if served_value is None else round(served_value, 4),
    )

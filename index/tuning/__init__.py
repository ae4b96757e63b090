"""Sub-package `index.tuning`."""

from index.tuning.autotune import measure_candidates
from index.tuning.choice import OperatingPoint, TuningLimits, choose_point, pareto_front

__all__ = [
    "OperatingPoint",
    "TuningLimits",
    "choose_point",
    "measure_candidates",
    "pareto_front",
]

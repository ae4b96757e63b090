"""Choice of search settings by measurement: nprobe of a build, and operating points on a sample.

In: vectors and held-out queries. Out: settings with measured recall, work and memory. It writes no version.
"""

from index.tuning.autotune import measure_candidates
from index.tuning.choice import OperatingPoint, TuningLimits, choose_point, pareto_front
from index.tuning.nprobe import sample_rows

__all__ = [
    "OperatingPoint",
    "TuningLimits",
    "choose_point",
    "measure_candidates",
    "pareto_front",
    "sample_rows",
]

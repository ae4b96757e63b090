"""A plan file in, a validated `Plan` out: the settings of dataset, extractors, training, index and report.

Imports the settings of all packages, but none of their code, so that a plan loads without torch and faiss. It is
independent of stages and workspaces.
"""

from pipeline.plans.load import load_plan
from pipeline.plans.package import open_package, read_region_config
from pipeline.plans.plan import Plan, ReportConfig

__all__ = [
    "Plan",
    "ReportConfig",
    "load_plan",
    "open_package",
    "read_region_config",
]

"""Sub-package `pipeline.plans`."""

from pipeline.plans.load import load_plan
from pipeline.plans.plan import Plan

__all__ = [
    "Plan",
    "load_plan",
]

"""A note about a plan whose detector does not suit its images; used by reports and by the search page."""

from pathlib import Path

from extractors.config import TorchvisionConfig
from pipeline.plans.plan import Plan

DEMO_DETECTOR = "demo"


def describe_extractor(plan: Plan | None) -> list[str]:
    """Return a note if the detector of the drawn demo scenes gets other images; none without a plan."""
    if plan is None:
        return []
    config = plan.regions
    if plan.demo is not None or plan.regions_file is not None or plan.regions_store is not None:
        return []
    if not isinstance(config, TorchvisionConfig) or config.model != DEMO_DETECTOR:
        return []
    weights = "" if config.weights == DEMO_DETECTOR else f" (here with the weights {Path(config.weights).name})"
    return [
        f"The demo detector{weights} was made for drawn scenes, not for photographs: its regions, and all figures that "
        "rest on them, mean little here. Set `[regions]` to another extractor; see docs/how-to/region-features.md."
    ]

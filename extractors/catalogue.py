"""The kinds of region extractor there are, by their configs: `kind` in a plan's [regions] says which."""

from __future__ import annotations

from typing import Any

from extractors.faster_rcnn import TorchvisionConfig, TorchvisionExtractor
from extractors.regions import RegionExtractor

RegionsConfig = TorchvisionConfig
KINDS: dict[type, type] = {TorchvisionConfig: TorchvisionExtractor}


def region_extractor(config: RegionsConfig) -> RegionExtractor:
    """The extractor of a config, its weights loaded. Raises what loading them raises."""
    return KINDS[type(config)](config)


def recipe(extractor: RegionExtractor) -> dict[str, Any]:
    """The recipe of the store that an extractor fills: its fingerprint, and what its class and attribute ids name."""
    return {
        **extractor.fingerprint,
        "classes": list(extractor.classes),
        "attributes": list(extractor.attributes),
    }

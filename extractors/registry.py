"""The kinds of region extractor there are: `kind` in a plan's [regions] says which; without it, "torchvision"."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from extractors.bottom_up.extractor import BottomUpExtractor
from extractors.config import BottomUpConfig, Detectron2Config, GridConfig, TorchvisionConfig
from extractors.regions.base import RegionExtractor
from extractors.regions.detectron2_faster_rcnn import Detectron2Extractor
from extractors.regions.faster_rcnn import TorchvisionExtractor
from extractors.regions.grid import GridExtractor

# A new kind is its import and its line here, and its config in `extractors.configs`.
EXTRACTOR_BY_CONFIG: dict[type[BaseModel], type[RegionExtractor]] = {
    TorchvisionConfig: TorchvisionExtractor,
    GridConfig: GridExtractor,
    BottomUpConfig: BottomUpExtractor,
    Detectron2Config: Detectron2Extractor,
}


def build_region_extractor(config: Any) -> RegionExtractor:
    """The extractor of one of these configs, its weights loaded. Raises what loading them raises."""
    return EXTRACTOR_BY_CONFIG[type(config)](config)


def region_store_recipe(extractor: RegionExtractor) -> dict[str, Any]:
    """The recipe of the store that an extractor fills: its fingerprint, and what its class and attribute ids name."""
    return {
        **extractor.recipe,
        "classes": list(extractor.classes),
        "attributes": list(extractor.attributes),
    }

"""Build the region extractor of a configuration; used by the extraction stage and for photo queries."""

from __future__ import annotations

from extractors.config import BottomUpConfig, Detectron2Config, GridConfig, RegionsConfig, TorchvisionConfig
from extractors.regions import RegionExtractor


def build_region_extractor(config: RegionsConfig) -> RegionExtractor:
    """Build the region extractor of a configuration and load its weights.

    Each kind is imported in its own case, so that a process imports only the libraries of the kind that it uses.
    To add a kind, add a case here and its configuration to `extractors/config.py`.

    Raises:
        ValueError: The configuration is of no known kind, or the extractor rejects the model or its weights.
        FileNotFoundError: The weights file does not exist.
        ImportError: The library of the kind is not installed.
    """
    match config:
        case TorchvisionConfig():
            from extractors.regions.faster_rcnn import TorchvisionExtractor

            return TorchvisionExtractor(config)
        case GridConfig():
            from extractors.regions.grid import GridExtractor

            return GridExtractor(config)
        case BottomUpConfig():
            from extractors.bottom_up.extractor import BottomUpExtractor

            return BottomUpExtractor(config)
        case Detectron2Config():
            from extractors.regions.detectron2_faster_rcnn import Detectron2Extractor

            return Detectron2Extractor(config)
        case _:
            raise ValueError(f"{type(config).__name__} is not a `RegionsConfig`. Pass settings of a region extractor.")

"""Sub-package `extractors.regions`."""

from extractors.regions.base import RegionExtractor
from extractors.regions.stream import DEVICE_LOCK, extract_from_paths

__all__ = [
    "DEVICE_LOCK",
    "RegionExtractor",
    "extract_from_paths",
]

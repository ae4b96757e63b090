"""Images of any size become rows of region features; independent of stores, datasets or plans.

Only `extractors.registry` imports the module of a kind of extractor, so that this sub-package can be imported without
torchvision.
"""

from extractors.regions.base import RegionExtractor
from extractors.regions.stream import DEVICE_LOCK, extract_from_paths

__all__ = [
    "DEVICE_LOCK",
    "RegionExtractor",
    "extract_from_paths",
]

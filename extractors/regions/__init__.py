"""Images of any size become rows of region features; nothing here knows stores, datasets or plans.

The extractors of one kind are imported by `extractors.registry` only, so that importing this sub-package imports no
torchvision.
"""

from extractors.regions.base import RegionExtractor
from extractors.regions.stream import DEVICE_LOCK, extract_from_paths

__all__ = [
    "DEVICE_LOCK",
    "RegionExtractor",
    "extract_from_paths",
]

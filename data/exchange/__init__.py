"""Exchange of region features: files of other software in, stores out, and back; independent of plans or models."""

from data.exchange.import_recipe import count_images, detect_formats
from data.exchange.region_export import export_regions
from data.exchange.region_file import RegionFile
from data.exchange.region_import import ImportResult, find_missing_images, import_regions

__all__ = [
    "ImportResult",
    "RegionFile",
    "count_images",
    "detect_formats",
    "export_regions",
    "find_missing_images",
    "import_regions",
]

"""Region feature files of other software: files in, records of rows out, and back; independent of stages and models.

One module per family of formats; `catalogue.FORMATS` lists all of them (docs/reference/region-formats.md).
"""

from data.formats.arrays import map_npy
from data.formats.base import Format
from data.formats.catalogue import FORMATS, detect_format, get_format

__all__ = [
    "FORMATS",
    "Format",
    "detect_format",
    "get_format",
    "map_npy",
]

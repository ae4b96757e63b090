"""Sub-package `data.images`."""

from data.images.decode import MAX_ASPECT_RATIO, load_image
from data.images.hash_cache import FileHashCache

__all__ = [
    "FileHashCache",
    "MAX_ASPECT_RATIO",
    "load_image",
]

"""Image files: paths in, RGB pixels and content hashes out; independent of datasets or models."""

from data.images.decode import MAX_ASPECT_RATIO, load_image
from data.images.folder import find_path_problem, iter_image_files
from data.images.hash_cache import FileHashCache

__all__ = [
    "MAX_ASPECT_RATIO",
    "FileHashCache",
    "find_path_problem",
    "iter_image_files",
    "load_image",
]

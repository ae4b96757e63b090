"""Image files: paths in, RGB pixels and content hashes out; independent of datasets or models."""

from data.images.decode import MAX_ASPECT_RATIO, load_image
from data.images.folder import ImageFolder, find_path_problem, scan_image_folder
from data.images.hash_cache import FileHashCache

__all__ = [
    "MAX_ASPECT_RATIO",
    "FileHashCache",
    "ImageFolder",
    "find_path_problem",
    "load_image",
    "scan_image_folder",
]

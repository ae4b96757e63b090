"""Image files: paths in, RGB pixels and content hashes out; independent of datasets or models."""

from data.images.decode import MAX_ASPECT_RATIO, DecodeLimits, ReducedImage, load_image, load_reduced_image
from data.images.folder import ImageFolder, find_path_problem, scan_image_folder
from data.images.hash_cache import FileHashCache

__all__ = [
    "MAX_ASPECT_RATIO",
    "DecodeLimits",
    "FileHashCache",
    "ImageFolder",
    "ReducedImage",
    "find_path_problem",
    "load_image",
    "load_reduced_image",
    "scan_image_folder",
]

"""Image files: paths in, RGB pixels and content hashes out; knows nothing of datasets or models."""

from data.images.decode import MAX_ASPECT_RATIO, DecodeLimits, ReducedImage, load_image, load_reduced_image
from data.images.folder import find_path_problem, iter_image_files
from data.images.hash_cache import FileHashCache

__all__ = [
    "MAX_ASPECT_RATIO",
    "DecodeLimits",
    "FileHashCache",
    "ReducedImage",
    "find_path_problem",
    "iter_image_files",
    "load_image",
    "load_reduced_image",
]

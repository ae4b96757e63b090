"""Image files: paths in, RGB pixels and content hashes out; independent of datasets or models."""

from data.images.crop import check_box, crop_image
from data.images.decode import (
    ReducedImage,
    load_image,
    load_image_of_side,
    load_reduced_image,
)
from data.images.folder import ImageFolder, Selection, scan_image_folder
from data.images.hash_cache import FileHashCache, hash_files, is_content_hash
from data.images.limits import MAX_ASPECT_RATIO, DecodeLimits
from data.images.paths import ImagePaths
from data.images.sources import (
    count_image_bytes,
    find_image_container,
    find_shard,
    hash_image,
    read_image,
    read_image_head,
    stat_image,
)
from data.images.thumbnails import encode_jpeg, encode_thumbnail, load_thumbnail

__all__ = [
    "MAX_ASPECT_RATIO",
    "DecodeLimits",
    "FileHashCache",
    "ImageFolder",
    "ImagePaths",
    "ReducedImage",
    "Selection",
    "check_box",
    "count_image_bytes",
    "crop_image",
    "encode_jpeg",
    "encode_thumbnail",
    "find_image_container",
    "find_shard",
    "hash_files",
    "hash_image",
    "is_content_hash",
    "load_image",
    "load_image_of_side",
    "load_reduced_image",
    "load_thumbnail",
    "read_image",
    "read_image_head",
    "scan_image_folder",
    "stat_image",
]

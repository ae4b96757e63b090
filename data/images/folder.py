"""Find the images of a folder, and the reason why an image path cannot be used."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.io.files import TRANSIENT_ERRNOS

READABLE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm"),
}
# `load_image` cannot read these: they become invalid records with that reason, instead of being ignored.
UNREADABLE_SUFFIXES = {".heic", ".heif", ".avif", ".jp2", ".jxl", ".ico", ".psd", ".svg"}
IMAGE_SUFFIXES = READABLE_SUFFIXES | UNREADABLE_SUFFIXES


def iter_image_files(root: Path) -> Iterator[tuple[str, str]]:
    """Find all files and folders with the suffix of an image, and the folders that cannot be searched.

    Links to folders are not followed, because a loop of links would never end.

    Yields:
        Path below the root with `/`, and why it cannot be searched; an empty text for images.

    Raises:
        OSError: A transient I/O error occurred.
    """
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=errors.append):
        subfolders.sort()
        relative = Path(folder).relative_to(root)
        links = {name for name in subfolders if Path(folder, name).is_symlink()}
        for name in sorted([*subfolders, *files]):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (relative / name).as_posix(), ""
            elif name in links:
                yield (relative / name).as_posix(), "a link to a folder: only its images with captions are found"
    for error in errors:
        if error.errno in TRANSIENT_ERRNOS:
            raise error
        yield Path(error.filename).relative_to(root).as_posix(), f"the folder cannot be read: {error.strerror}"


def find_path_problem(relative: Any, root: Path) -> str:
    """Find why no image can be read at a path; an empty text if nothing is wrong.

    Args:
        relative: Path below the root; anything that is not a path is a problem.
        root: Folder of images, resolved.

    Raises:
        OSError: A transient I/O error occurred.
    """
    try:
        return _find_problem(relative, root)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        if getattr(error, "errno", None) in TRANSIENT_ERRNOS:
            raise
        return f"its path cannot be used: {getattr(error, 'strerror', None) or error}"


def _find_problem(relative: Any, root: Path) -> str:
    path = root / relative
    target = path.resolve()
    if not target.is_relative_to(root):
        return f"its path leaves the folder of images: {relative}"
    if target.is_file():
        return ""
    if path.is_symlink():
        return f"a link to nothing: {relative} -> {os.readlink(path)}"
    if target.exists():
        return f"{'a folder' if target.is_dir() else 'a pipe, socket or device'}, not a file: {relative}"
    forms = [form for form in ("NFC", "NFD") if Path(unicodedata.normalize(form, str(path))).is_file()]
    hint = f"; a file exists whose name is spelled in the {forms[0]} form of Unicode" if forms else ""
    return f"no such file: {relative}{hint}"

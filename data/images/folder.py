"""What lies in a folder of images: names, links, pipes, and what cannot be looked at."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.io.files import TRANSIENT_ERRNOS

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pnm"}


# Pictures that no reader here takes: they are named and set aside with that reason, rather than passed over.
IMAGE_SUFFIXES |= {".heic", ".heif", ".avif", ".jp2", ".jxl", ".ico", ".psd", ".svg"}


def iter_image_files(root: Path) -> Iterator[tuple[str, str]]:
    """(name below the root, problem) of all that is named like an image, and of folders that are not looked into.

    Links to folders are not followed: a loop would not end. Raises OSError where the machine is at fault.
    """
    unread: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unread.append):
        folders.sort()
        below, linked = Path(folder).relative_to(root), {name for name in folders if Path(folder, name).is_symlink()}
        for name in sorted([*folders, *files]):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (below / name).as_posix(), ""
            elif name in linked:
                yield (below / name).as_posix(), "a link to a folder: of its images only those with captions are found"
    for error in unread:
        if error.errno in TRANSIENT_ERRNOS:
            raise error
        yield Path(error.filename).relative_to(root).as_posix(), f"the folder cannot be read: {error.strerror}"


def find_path_problem(relative: Any, root: Path) -> str:
    """Why no image can be read at a path below the root (itself resolved), or an empty text.

    Raises OSError where the machine is at fault.
    """
    try:
        return _problem(relative, root)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        if getattr(error, "errno", None) in TRANSIENT_ERRNOS:
            raise
        return f"its path cannot be used: {getattr(error, 'strerror', None) or error}"


def _problem(relative: Any, root: Path) -> str:
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
    other = [form for form in ("NFC", "NFD") if Path(unicodedata.normalize(form, str(path))).is_file()]
    hint = f"; there is one whose name is spelt in Unicode's {other[0]} form" if other else ""
    return f"no such file: {relative}{hint}"

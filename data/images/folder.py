"""Find the images of a folder, and the reason why an image path cannot be used."""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.io.files import TRANSIENT_ERRNOS

READABLE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".jps", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm", ".pbm", ".pam", ".pfm"),
)
# `load_image` cannot read these: files without captions become invalid records with that reason, instead of being
# ignored. Where the captions file names such a file, its content decides.
UNREADABLE_SUFFIXES = (
    *(".heic", ".heics", ".heif", ".heifs", ".hif"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".j2c", ".jpc", ".jxl", ".jxr", ".wdp", ".hdp"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".raw", ".dcr", ".kdc", ".x3f", ".3fr", ".iiq", ".erf", ".mrw", ".exr", ".hdr", ".dds", ".qoi", ".flif", ".jng"),
    *(".ico", ".cur", ".icns", ".psd", ".psb", ".xcf", ".svg", ".svgz", ".ai", ".eps", ".tga", ".pcx", ".sgi", ".xbm"),
)
IMAGE_SUFFIXES = frozenset(READABLE_SUFFIXES + UNREADABLE_SUFFIXES)
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # files that start with a dot belong to systems and programs, too
MAX_IGNORED_NAMES = 5


@dataclass
class ImageFolder:
    """What is in a folder of images and its subfolders. Names are paths below it, with `/`."""

    images: list[str] = field(default_factory=list)
    """Files and folders with the suffix of an image that can be read."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a file cannot be read as an image, or a folder cannot be searched, by name."""
    num_ignored: int = 0
    """Number of other files."""
    first_ignored: list[str] = field(default_factory=list)
    """Names of the first ignored files."""

    def add_file(self, name: str) -> None:
        """Add a file, or a folder with the suffix of an image, by its suffix."""
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        if suffix in READABLE_SUFFIXES:
            self.images.append(name)
        elif suffix in UNREADABLE_SUFFIXES:
            self.problems[name] = f"files of the format {suffix} cannot be read; convert it to JPEG, PNG or TIFF"
        elif not path.name.startswith(".") and path.name.lower() not in SYSTEM_FILES:
            self.num_ignored += 1
            if self.num_ignored <= MAX_IGNORED_NAMES:
                self.first_ignored.append(name)


def scan_image_folder(root: Path, annotations: Path | None = None) -> ImageFolder:
    """Find all images of a folder, and the folders that cannot be searched. No file is opened.

    Links to folders are not followed, because a loop of links would never end.

    Args:
        root: Folder of images.
        annotations: A file that may be in the folder and is not an image.

    Raises:
        OSError: A transient I/O error occurred.
    """
    errors: list[OSError] = []
    found, captions_file = ImageFolder(), annotations and annotations.absolute()
    for folder, subfolders, files in os.walk(root, onerror=errors.append):
        subfolders.sort()
        relative = Path(folder).relative_to(root)
        for name in sorted([*subfolders, *files]):
            path = (relative / name).as_posix()
            if Path(name).suffix.lower() in IMAGE_SUFFIXES or name not in subfolders:
                if Path(folder, name).absolute() != captions_file:
                    found.add_file(path)
            elif Path(folder, name).is_symlink():
                found.problems[path] = "a link to a folder: only its images with captions are found"
    for error in errors:
        if error.errno in TRANSIENT_ERRNOS:
            raise error
        name = Path(error.filename).relative_to(root).as_posix()
        found.problems[name] = f"the folder cannot be read: {error.strerror}"
    return found


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

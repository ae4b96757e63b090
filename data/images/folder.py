"""Find the images, shards and tables of a folder."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data.io.files import TRANSIENT_ERRNOS
from data.text import printable

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
COMPANION_SUFFIXES = (".txt", ".json")  # of a text or JSON file beside an image, with its captions and columns
SHARD_SUFFIXES = (".tar", ".parquet")
COMPRESSED_SHARDS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
METADATA_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # names in Hugging Face's ImageFolder
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # files that start with a dot belong to systems and programs, too
MAX_IGNORED_NAMES = 5
MAX_SUFFIXES = 5  # of the files of a folder without images that the error lists


@dataclass(frozen=True)
class Selection:
    """Which images of a folder are taken, besides hidden ones, which are never taken."""

    include: re.Pattern[str] | None = None
    """Paths of images, or of folders with all that is below them; None: all."""
    exclude: re.Pattern[str] | None = None
    """Paths of images and folders that are left out; None: none."""
    max_depth: int | None = None
    """Levels of folders that are searched; 1 is the folder without its subfolders; None: all."""

    def takes(self, shard: str, path: str) -> bool:
        """Return whether a member of a shard is taken: by its path, or by that of its shard."""
        is_excluded = self.exclude is not None and self.exclude.fullmatch(path)
        is_included = self.include is None or self.include.fullmatch(path) or self.include.fullmatch(shard)
        return not is_excluded and bool(is_included)


@dataclass
class ImageFolder:
    """What is in a folder of images and its subfolders. Names are paths below it, with `/`."""

    images: list[str] = field(default_factory=list)
    """Files and folders with the suffix of an image that can be read."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a file cannot be read as an image, or a folder cannot be searched, by name."""
    tables: list[str] = field(default_factory=list)
    """Tables of metadata, see `METADATA_TABLES`."""
    shards: list[str] = field(default_factory=list)
    """Tar and Parquet files, which may hold images."""
    companions: list[str] = field(default_factory=list)
    """Text and JSON files, which may belong to images beside them."""
    num_ignored: int = 0
    """Number of other files."""
    first_ignored: list[str] = field(default_factory=list)
    """Names of the first ignored files."""
    num_by_suffix: Counter[str] = field(default_factory=Counter)
    """Number of ignored files by their suffix in lower case; some have none."""
    num_hidden: int = 0
    """Number of hidden images and folders, whose names start with a dot."""
    num_excluded: int = 0
    """Number of images and folders that the selection leaves out."""

    def add_file(self, name: str) -> None:
        """Add a file, or a folder with the suffix of an image, by its suffix."""
        suffix = _get_suffix(name)
        if suffix in READABLE_SUFFIXES:
            self.images.append(name)
        elif suffix in UNREADABLE_SUFFIXES:
            self.problems[name] = f"files of the format {suffix} cannot be read; convert it to JPEG, PNG or TIFF"
        elif os.path.basename(name) in METADATA_TABLES:
            self.tables.append(name)
        elif suffix in SHARD_SUFFIXES:
            self.shards.append(name)
        elif name.lower().endswith(COMPRESSED_SHARDS):
            self.problems[name] = "a compressed tar file, in which no image can be read alone; unpack it to .tar once"
        elif suffix in COMPANION_SUFFIXES:
            self.companions.append(name)
        else:
            self.ignore(name)

    def ignore(self, name: str) -> None:
        """Count a file that is not part of the dataset."""
        self.num_ignored += 1
        self.num_by_suffix[_get_suffix(name)] += 1
        if self.num_ignored <= MAX_IGNORED_NAMES:
            self.first_ignored.append(name)

    def ignore_others(self) -> None:
        """Count all files except images as ignored: those of a dataset with a captions file have no meaning."""
        for name in sorted([*self.tables, *self.shards, *self.companions]):
            self.ignore(name)

    def describe_left_out(self, root: Path) -> tuple[str, ...]:
        """Describe how many files and folders are not part of the dataset; one sentence each, for display."""
        notes = []
        if self.num_ignored:
            names = ", ".join(map(printable, self.first_ignored))
            more = ", ..." if self.num_ignored > len(self.first_ignored) else ""
            files, what = ("file", "is not an image") if self.num_ignored == 1 else ("files", "are not images")
            notes.append(f"Ignored {self.num_ignored:,} {files} in {root} that {what}: {names}{more}")
        if self.num_hidden:
            notes.append(
                f"Left out {self.num_hidden:,} hidden images and folders in {root}: names that start with a dot"
            )
        if self.num_excluded:
            settings = "`include`, `exclude` and `max_depth`"
            notes.append(f"Left out {self.num_excluded:,} images and folders in {root} by {settings}")
        return tuple(notes)

    def describe_files(self) -> str:
        """Describe what a folder without images holds: how many files of which suffixes, and what was left out."""
        kinds = [f"{count:,} {suffix or 'without an ending'}" for suffix, count in self.num_by_suffix.most_common()]
        more = f", {len(kinds) - MAX_SUFFIXES:,} more endings" if len(kinds) > MAX_SUFFIXES else ""
        files = f"{self.num_ignored:,} other files ({', '.join(kinds[:MAX_SUFFIXES])}{more})" if kinds else "no files"
        left_out = [f"{self.num_hidden:,} hidden images and folders"] if self.num_hidden else []
        left_out += [f"{self.num_excluded:,} that the settings leave out"] if self.num_excluded else []
        return printable(" and ".join([files, *left_out]))


def scan_image_folder(root: Path, annotations: Path | None = None, selection: Selection | None = None) -> ImageFolder:
    """Find all images of a folder, and the folders that cannot be searched. No file is opened.

    Links to folders are not followed, because a loop of links would never end. Hidden files and folders are left out.

    Args:
        root: Folder of images.
        annotations: A file that may be in the folder and is not an image.
        selection: Which images are taken; all if None.

    Raises:
        OSError: A transient I/O error occurred.
    """
    return _Scan(root, annotations, selection or Selection()).run()


class _Scan:
    """One walk through a folder. Paths are texts: objects would take longer than the file system."""

    def __init__(self, root: Path, annotations: Path | None, selection: Selection) -> None:
        self.root, self.selection, self.found = str(root.absolute()), selection, ImageFolder()
        self.captions_file = None if annotations is None else str(annotations.absolute())
        self.included: set[str] = set()  # folders below which all images are included

    def run(self) -> ImageFolder:
        errors: list[OSError] = []
        for folder, subfolders, files in os.walk(self.root, onerror=errors.append):
            prefix = folder[len(self.root) :].strip("/")
            names = sorted([*subfolders, *files])
            folders = {name: self._is_searched(prefix, name) for name in sorted(subfolders)}
            subfolders[:] = [name for name, is_searched in folders.items() if is_searched]
            for name in names:
                if name not in folders or _get_suffix(name) in IMAGE_SUFFIXES:
                    self._add_file(folder, prefix, name, is_folder=name in folders)
                elif folders[name] and os.path.islink(_join(folder, name)):
                    self.found.problems[_join(prefix, name)] = self._describe_link()
        for error in errors:
            if error.errno in TRANSIENT_ERRNOS:
                raise error
            self.found.problems[os.path.relpath(error.filename, self.root)] = (
                f"the folder cannot be read: {error.strerror}"
            )
        return self.found

    def _describe_link(self) -> str:
        found = "only its images with captions are found" if self.captions_file else "its images are not found"
        return f"a link to a folder: {found}"

    def _is_searched(self, prefix: str, name: str) -> bool:
        """Return whether a subfolder is searched; count it if not, and remember whether it is included."""
        path, selection = _join(prefix, name), self.selection
        if name.startswith("."):
            self.found.num_hidden += 1
            return False
        is_too_deep = selection.max_depth is not None and path.count("/") + 2 > selection.max_depth
        if is_too_deep or (selection.exclude and selection.exclude.fullmatch(path)):
            self.found.num_excluded += 1
            return False
        if prefix in self.included or (selection.include and selection.include.fullmatch(path)):
            self.included.add(path)
        return True

    def _add_file(self, folder: str, prefix: str, name: str, is_folder: bool) -> None:
        """Add a file, or a folder that is named like an image, or count it."""
        path, is_image = _join(prefix, name), _get_suffix(name) in IMAGE_SUFFIXES
        if name.startswith("."):
            self.found.num_hidden += is_image and not is_folder
        elif is_image and not self._is_selected(prefix, path):
            self.found.num_excluded += not is_folder
        elif is_image or (name.lower() not in SYSTEM_FILES and _join(folder, name) != self.captions_file):
            if is_image or self.selection.exclude is None or not self.selection.exclude.fullmatch(path):
                self.found.add_file(path)
            else:
                self.found.ignore(path)

    def _is_selected(self, prefix: str, path: str) -> bool:
        include, exclude = self.selection.include, self.selection.exclude
        if include is not None and prefix not in self.included and not include.fullmatch(path):
            return False
        return exclude is None or not exclude.fullmatch(path)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _get_suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()

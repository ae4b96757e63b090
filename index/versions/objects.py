"""Immutable object files named by their SHA-256, and staging folders from which an interrupted build resumes.

root/objects/ab/ab12...      written in the staging folder, then renamed; fsynced before a manifest lists it
root/staging/<inputs>/       one JSON record per finished step; files `*.part` are incomplete and are deleted

Only files whose names have these forms are ever deleted: anything else in the two folders belongs to somebody else.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from data.io import TRANSIENT_ERRNOS, add_path_to_errors, fsync_path, read_json, sha256_file

RECOVERY_HINT = (
    "Roll back to a version that passes `tern index verify`, or run `tern index` to build one; a build also replaces "
    "damaged objects."
)
OBJECT_NAME = re.compile(r"objects/([0-9a-f]{2})/\1[0-9a-f]{62}")
STAGED_NAME = re.compile(r"staging/[0-9a-f]{12}/[^/.][^/]*\.(json|part|part-journal)")  # the journal is SQLite's
M = TypeVar("M", bound=BaseModel)


class ManifestModel(BaseModel):
    """Base class of everything in a manifest: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ObjectRef(ManifestModel):
    """Reference to an object file."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    """64 hex digits; the pattern keeps a manifest from naming a file outside the folder `objects`"""
    bytes: int = Field(ge=0)


def object_path(root: Path, ref: ObjectRef) -> Path:
    """Return the path of an object file."""
    return Path(root) / "objects" / ref.sha256[:2] / ref.sha256


class FolderFiles(NamedTuple):
    """Files below one folder of an index."""

    own: list[Path]
    """files of the index, by the form of their names"""
    foreign: list[Path]
    """other files, and links; they are never deleted"""


def list_objects(root: Path) -> FolderFiles:
    """List the object files, referenced or not, and what else is below the folder `objects`."""
    return _list_files(Path(root), "objects", OBJECT_NAME)


def list_staged(root: Path) -> FolderFiles:
    """List the files of unfinished builds, and what else is below the folder `staging`."""
    return _list_files(Path(root), "staging", STAGED_NAME)


def _list_files(root: Path, name: str, pattern: re.Pattern[str]) -> FolderFiles:
    files = FolderFiles([], [])
    for folder, subfolders, names in os.walk(root / name):
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in sorted([*names, *links])):
            relative = path.relative_to(root).as_posix()
            is_own = pattern.fullmatch(relative) and path.is_file() and not path.is_symlink()
            (files.own if is_own else files.foreign).append(path)
    return files


def remove_staged(paths: list[Path]) -> None:
    """Delete files of unfinished builds, and the folders that are empty afterwards."""
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        with suppress(OSError):  # it has other files
            folder.rmdir()


def iter_refs(part: Any) -> Iterator[ObjectRef]:
    """Yield every object reference in a manifest or in a part of one (models, lists and dicts, nested)."""
    if isinstance(part, ObjectRef):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from iter_refs(getattr(part, name))
    elif isinstance(part, list | tuple | dict):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from iter_refs(inner)


def store_object(root: Path, path: Path) -> ObjectRef:
    """Move a finished file into the folder of objects; an equal object is kept, a damaged one is replaced.

    `fsync_objects` makes it durable. Until a manifest lists it, it is verified by its hash before use.
    """
    ref = ObjectRef(sha256=sha256_file(path), bytes=path.stat().st_size)
    target = object_path(root, ref)
    if _matches(target, ref):
        path.unlink()
        return ref
    target.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o444)
    os.replace(path, target)
    return ref


def fsync_objects(root: Path, part: Any) -> None:
    """Fsync every object that `part` references, and their folders, before a manifest lists them."""
    paths = {object_path(root, ref) for ref in iter_refs(part)}
    for path in sorted(paths) + sorted({path.parent for path in paths}) + [Path(root) / "objects"]:
        fsync_path(path)


@lru_cache(maxsize=4096)
def _cached_sha256(path: Path, size: int, ctime_ns: int, inode: int) -> str:
    return sha256_file(path)


def check_object(root: Path, ref: ObjectRef, description: str, content: bool = True, rehash: bool = True) -> Path:
    """Compare an object file with its reference and return its path.

    Args:
        description: What the object holds, for the error message.
        content: Compare the SHA-256 too, and not only the size.
        rehash: Read the file even if this process hashed it before and its size, ctime and inode are unchanged.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is truncated, damaged or of another index.
    """
    path = object_path(root, ref)
    if not path.is_file():
        raise FileNotFoundError(f"{description}: {path} is missing, but the manifest lists it. {RECOVERY_HINT}")
    stat = path.stat()
    if (size := stat.st_size) != ref.bytes:
        raise ValueError(
            f"{description}: {path} has {size} bytes, the manifest lists {ref.bytes}: truncated or of another index. "
            f"{RECOVERY_HINT}"
        )
    if not content:
        return path
    actual = sha256_file(path) if rehash else _cached_sha256(path, size, stat.st_ctime_ns, stat.st_ino)
    if actual != ref.sha256:
        raise ValueError(
            f"{description}: {path} is damaged or of another index: its sha256 is {actual[:12]}, the manifest lists "
            f"{ref.sha256[:12]}. {RECOVERY_HINT}"
        )
    return path


def _matches(path: Path, ref: ObjectRef) -> bool:
    return path.is_file() and path.stat().st_size == ref.bytes and sha256_file(path) == ref.sha256


class Staging:
    """Unfinished work on one candidate.

    Only the process that holds the write lock of the index may use it.

    Args:
        inputs_digest: Digest of everything that determines the candidate; names the folder.
    """

    def __init__(self, root: Path, inputs_digest: str):
        self.root, self.folder = Path(root), Path(root) / "staging" / inputs_digest
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in list_staged(self.root).own:
            if path.suffix != ".json":
                path.unlink()

    def run_step(self, name: str, model: type[M], make: Callable[[], M]) -> M:
        """Return the recorded result of an earlier run, or run `make` and record its result.

        A recorded result counts only if all its objects verify.

        Args:
            name: Name of the step; names the file of the record.
            model: Type of the result.
            make: Computes the result and adds its objects to the staging folder.
        """
        record = self.folder / f"{name.replace('/', '-')}.json"
        result = self._read_record(record, model)
        if result is None:
            result = make()
            with add_path_to_errors(record):
                record.write_text(result.model_dump_json(), encoding="utf-8")
        return result

    def _read_record(self, record: Path, model: type[M]) -> M | None:
        if not record.is_file():
            return None
        try:
            result = model.model_validate(read_json(record))
            for ref in iter_refs(result):
                check_object(self.root, ref, record.stem)
        except (ValueError, ValidationError, FileNotFoundError):
            return None
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            return None
        return result

    def add_object(self, name: str, write: Callable[[Path], Any]) -> ObjectRef:
        """Store the file that `write(path)` writes as an object."""
        path = self.folder / f"{name.replace('/', '-')}.part"
        try:
            with add_path_to_errors(path):
                write(path)
            return store_object(self.root, path)
        finally:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder once the candidate is published, or rejected and kept."""
        remove_staged([path for path in list_staged(self.root).own if path.parent == self.folder])
        with suppress(OSError):  # no step was recorded, or it has files of somebody else
            self.folder.rmdir()

"""Immutable files named by their SHA-256, shared by versions; and work towards one, found again after a kill.

root/objects/ab/ab12...      written in the staging folder, renamed; synced before a manifest names it
root/staging/<inputs>/       a record (JSON) of every finished step; anything else there is a half and is thrown away
"""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from data.io import TRANSIENT_ERRNOS, add_path_to_errors, fsync_path, read_json, sha256_file

RECOVERY_HINT = "Roll back to a version that verifies, or run `tern index` to build again: that also mends it."
M = TypeVar("M", bound=BaseModel)


class ManifestModel(BaseModel):
    """A part of a manifest: immutable, strict, and what it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ObjectRef(ManifestModel):
    """An object: 64 hex digits, so that no manifest can name a file outside the folder of objects."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    bytes: int = Field(ge=0)


def object_path(root: Path, ref: ObjectRef) -> Path:
    """Where an object lies."""
    return Path(root) / "objects" / ref.sha256[:2] / ref.sha256


def iter_refs(part: Any) -> Iterator[ObjectRef]:
    """Every object that a part of a manifest names."""
    if isinstance(part, ObjectRef):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from iter_refs(getattr(part, name))
    elif isinstance(part, list | tuple | dict):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from iter_refs(inner)


def store_object(root: Path, path: Path) -> ObjectRef:
    """Make an object of a finished file, which is moved. One that is there is kept if it is whole, else replaced.

    It is synced by `settle`: until a manifest names it, it is compared with its hash before it is used.
    """
    ref = ObjectRef(sha256=sha256_file(path), bytes=path.stat().st_size)
    place = object_path(root, ref)
    if _whole(place, ref):
        path.unlink()
        return ref
    place.parent.mkdir(parents=True, exist_ok=True)
    path.chmod(0o444)
    os.replace(path, place)
    return ref


def fsync_objects(root: Path, part: Any) -> None:
    """Make every object that `part` names survive a power cut: before a manifest names them, not one by one."""
    paths = {object_path(root, ref) for ref in iter_refs(part)}
    for path in sorted(paths) + sorted({path.parent for path in paths}) + [Path(root) / "objects"]:
        fsync_path(path)


@lru_cache(maxsize=4096)
def _hash_as_seen(path: Path, size: int, changed: int, inode: int) -> str:
    return sha256_file(path)


def check_object(root: Path, ref: ObjectRef, what: str, content: bool = True, rehash: bool = True) -> Path:
    """The path of an object, its size compared and, with `content`, its hash. `what` says what it holds.

    Not `again`: a file that the system says has not changed since this process hashed it is not read again.

    Raises FileNotFoundError or ValueError naming it if it is missing, truncated, damaged or foreign.
    """
    path = object_path(root, ref)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: {path} is missing, but the manifest lists it. {RECOVERY_HINT}")
    stat = path.stat()
    if (size := stat.st_size) != ref.bytes:
        raise ValueError(
            f"{what}: {path} has {size} bytes, the manifest says {ref.bytes}: truncated or foreign. {RECOVERY_HINT}"
        )
    if not content:
        return path
    found = sha256_file(path) if rehash else _hash_as_seen(path, size, stat.st_ctime_ns, stat.st_ino)
    if found != ref.sha256:
        raise ValueError(
            f"{what}: {path} is damaged or foreign: sha256 {found[:12]}, the manifest says {ref.sha256[:12]}. {RECOVERY_HINT}"
        )
    return path


def _whole(path: Path, ref: ObjectRef) -> bool:
    return path.is_file() and path.stat().st_size == ref.bytes and sha256_file(path) == ref.sha256


class Staging:
    """Work towards the candidate of `inputs` (a digest of all that goes in). Only the one writer may hold it."""

    def __init__(self, root: Path, inputs: str):
        self.root, self.folder = Path(root), Path(root) / "staging" / inputs
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.root / "staging").glob("*/*"):
            if path.suffix != ".json" or path.name.startswith("."):
                path.unlink()

    def run_step(self, name: str, kind: type[M], make: Callable[[], M]) -> M:
        """What `make` returns, or what an earlier run's did, if every object that it names is still whole."""
        record = self.folder / f"{name.replace('/', '-')}.json"
        found = self._recorded(record, kind)
        if found is None:
            found = make()
            with add_path_to_errors(record):
                record.write_text(found.model_dump_json(), encoding="utf-8")
        return found

    def _recorded(self, record: Path, kind: type[M]) -> M | None:
        if not record.is_file():
            return None
        try:
            found = kind.model_validate(read_json(record))
            for ref in iter_refs(found):
                check_object(self.root, ref, record.stem)
        except (ValueError, ValidationError, FileNotFoundError):
            return None
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            return None
        return found

    def add_object(self, name: str, write: Callable[[Path], Any]) -> ObjectRef:
        """Make an object of what `write(path)` writes."""
        path = self.folder / f"{name.replace('/', '-')}.part"
        try:
            with add_path_to_errors(path):
                write(path)
            return store_object(self.root, path)
        finally:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The candidate is published, or refused and kept: nothing is left to find again."""
        shutil.rmtree(self.folder, ignore_errors=True)

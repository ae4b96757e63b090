"""What a version is: a manifest that names its objects, and the one pointer that says which version is served.

root/CURRENT                      {"version": 3, "manifest_sha256": "..."}
root/versions/v00000003.json      manifest: written whole, under a number that nobody had, and never changed
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.io import (
    add_path_to_errors,
    fsync_path,
    read_json,
    remove_stale_temporaries,
    sha256_file,
    sha256_text,
    temporary_path,
    write_json,
    write_lock,
)
from index.versions.manifest import CHECKSUM_PLACEHOLDER, PARTS, SCHEMA_VERSION, Candidate, Manifest, ShardManifest
from index.versions.objects import check_object, iter_refs


def manifest_path(root: Path, version: int) -> Path:
    """Where the manifest of a version lies."""
    return Path(root) / "versions" / f"v{version:08d}.json"


def list_versions(root: Path) -> list[int]:
    """Numbers of the versions, served or refused, oldest first."""
    return [number for number in list_used_numbers(root) if manifest_path(root, number).is_file()]


def list_used_numbers(root: Path) -> list[int]:
    """Every number that was ever taken and has left a trace, by an index of an older schema too."""
    names = [path.name.removesuffix(".json") for path in Path(root).glob("versions/v*")]
    return sorted({int(name[1:]) for name in names if re.fullmatch(r"v\d{8,18}", name)})


def read_current(root: Path) -> dict[str, Any] | None:
    """{"version", "manifest_sha256"} of the published version, None if nothing is published."""
    path = Path(root) / "CURRENT"
    if not path.is_file():
        return None
    pointer = read_json(path)
    if not isinstance(pointer, dict) or not isinstance(pointer.get("version"), int):
        raise ValueError(f"{path} does not name a version ({str(pointer)[:80]!r}). {recovery_hint(root)}")
    return pointer


def read_current_or_none(root: Path) -> dict[str, Any] | None:
    """CURRENT for those who are about to replace it: a broken one counts as none, or nothing could mend it."""
    try:
        return read_current(root)
    except ValueError:
        return None


def read_version_manifest(root: Path, version: int | None = None) -> Manifest:
    """The manifest of `version` (default: the published one), compared with CURRENT's hash; objects are not looked at.

    Raises FileNotFoundError if nothing is published or the file is missing, ValueError if it does not fit.
    """
    pointer = read_current(root) if version is None else read_current_or_none(root)
    if version is None and pointer is None:
        raise FileNotFoundError(f"no index is published in {root}: run `tern index` first.")
    number = pointer["version"] if version is None else version
    path = manifest_path(root, number)
    if path.with_suffix("").is_dir():
        raise ValueError(
            f"{path.with_suffix('')} was written by an older program (schema 1), this one reads schema {SCHEMA_VERSION}: "
            "run `tern index` to build again; the old files stay."
        )
    if not path.is_file():
        named = "CURRENT names" if version is None else "asked for"
        raise FileNotFoundError(f"{named} version {number}, but {path} is missing. {recovery_hint(root)}")
    if pointer and pointer["version"] == number and sha256_file(path) != pointer.get("manifest_sha256"):
        raise ValueError(f"{path} is not the manifest that CURRENT names (sha256 differs). {recovery_hint(root)}")
    return _parse(root, path, number)


def _parse(root: Path, path: Path, number: int) -> Manifest:
    content, text = read_json(path), path.read_text(encoding="utf-8")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema {schema!r}, this program reads {SCHEMA_VERSION}. {recovery_hint(root)}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not a manifest: {where}: {first['msg']}. {recovery_hint(root)}") from error
    if insert_checksum(text.replace(manifest.sha256, CHECKSUM_PLACEHOLDER)) != text:
        raise ValueError(f"{path} is damaged: its sha256 is not the one that it says. {recovery_hint(root)}")
    if manifest.version != number:
        raise ValueError(f"{path} says that it is version {manifest.version}: foreign. {recovery_hint(root)}")
    return manifest


def insert_checksum(text: str) -> str:
    """A manifest's text with its own SHA-256 in place of the zeros."""
    return text.replace(CHECKSUM_PLACEHOLDER, sha256_text(text))


def write_manifest(root: Path, manifest: Manifest) -> Path:
    """Write a version's manifest, whole, synced and read-only.

    Raises FileExistsError if the number is taken: two writers never share one.
    """
    path = manifest_path(root, manifest.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # of a process of this number that was killed: read-only
    try:
        text = json.dumps(manifest.as_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        with add_path_to_errors(temporary):
            temporary.write_text(insert_checksum(text + "\n"), encoding="utf-8")
        temporary.chmod(0o444)
        fsync_path(temporary)
        os.link(temporary, path)  # as O_EXCL, but the name appears with its whole content
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def set_current(root: Path, version: int) -> bool:
    """Switch what readers see, by one rename; whether it pointed elsewhere."""
    pointer = {"version": version, "manifest_sha256": sha256_file(manifest_path(root, version))}
    if read_current_or_none(root) == pointer:
        return False
    write_json(Path(root) / "CURRENT", pointer)
    return True


def check_objects(root: Path, manifest: Candidate, content: bool = True, known: Sequence[ShardManifest] = ()) -> None:
    """Compare every object of a version with its manifest: sizes and, with `content`, hashes.

    Of the shards in `known` the hashes were compared before. Raises FileNotFoundError or ValueError naming the first
    object that is missing, damaged or foreign.
    """
    for kind, about in manifest.collections.items():
        for what, part in {"template": about.trained_index, "dead keys": about.deleted}.items():
            for ref in iter_refs(part):
                check_object(root, ref, f"{kind} {what}", content)
        for i, shard in enumerate(about.shards):
            for name in PARTS:
                check_object(root, getattr(shard, name), f"{kind} {name} of shard {i}", content and shard not in known)


def recovery_hint(root: Path) -> str:
    """The way out of a version that cannot be read."""
    others = ", ".join(map(str, list_versions(root))) or "none"
    return f"Roll back to a version that verifies (present: {others}), or run `tern index` to build again."


@contextmanager
def index_write_lock(root: Path) -> Iterator[None]:
    """Be the one writer of an index; ValueError names the one that is. The lock dies with its process."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with write_lock(root):
        for folder in (root, root / "tags", root / "versions"):
            remove_stale_temporaries(folder)
        yield

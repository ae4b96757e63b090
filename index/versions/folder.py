"""Files of an index folder: manifests, and the pointer CURRENT to the published version.

root/CURRENT                      {"version": 3, "manifest_sha256": "..."}
root/PINNED                       the same, if a rollback chose the published version; valid while it equals CURRENT
root/versions/v00000003.json      manifest: written atomically under an unused number and never changed
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from data.io import (
    add_path_to_errors,
    describe_other_version,
    fsync_path,
    read_json,
    sha256_file,
    sha256_text,
    temporary_path,
    write_json,
)
from data.text import describe_validation_error
from index.versions.manifest import (
    CHECKSUM_PLACEHOLDER,
    READABLE_SCHEMAS,
    SCHEMA_VERSION,
    Candidate,
    Manifest,
    ShardManifest,
)
from index.versions.objects import ManifestModel, check_object, iter_refs

PROGRAM_BY_SCHEMA = {2: "0.1"}  # versions of this program that wrote the older schemas


class Pointer(ManifestModel):
    """Name of a version: the content of CURRENT and of a tag file."""

    version: int = Field(ge=1)
    manifest_sha256: str


def manifest_path(root: Path, version: int) -> Path:
    """Return the path of a version's manifest."""
    return Path(root) / "versions" / f"v{version:08d}.json"


def list_versions(root: Path) -> list[int]:
    """List the numbers of the versions, published or rejected, oldest first."""
    return [number for number in list_used_numbers(root) if manifest_path(root, number).is_file()]


def list_used_numbers(root: Path) -> list[int]:
    """List every version number that is used in the folder `versions`.

    Numbers of an index of an older schema count as well.
    """
    names = [path.name.removesuffix(".json") for path in Path(root).glob("versions/v*")]
    return sorted({int(name[1:]) for name in names if re.fullmatch(r"v\d{8,18}", name)})


def read_pointer(path: Path) -> Pointer:
    """Read a file that names a version, CURRENT or a tag.

    Raises:
        ValueError: The file is not valid JSON or does not name a version.
    """
    content = read_json(path)
    try:
        return Pointer.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path} does not name a version ({str(content)[:80]!r}).") from error


def make_pointer(root: Path, version: int) -> Pointer:
    """Return the pointer to an existing version."""
    return Pointer(version=version, manifest_sha256=sha256_file(manifest_path(root, version)))


def read_current(root: Path) -> Pointer | None:
    """Read the pointer to the published version; None if nothing is published."""
    path = Path(root) / "CURRENT"
    if not path.is_file():
        return None
    try:
        return read_pointer(path)
    except ValueError as error:
        raise ValueError(f"{error} {recovery_hint(root)}") from error


def read_current_or_none(root: Path) -> Pointer | None:
    """Read CURRENT before replacing it: a damaged file counts as none, so that publishing repairs it."""
    try:
        return read_current(root)
    except ValueError:
        return None


def read_version_manifest(root: Path, version: int | None = None) -> Manifest:
    """Read the manifest of a version and verify it, but not the objects that it lists.

    Args:
        version: Number; None: the published version.

    Raises:
        FileNotFoundError: Nothing is published, or the manifest is missing.
        ValueError: The manifest is damaged, of another index, or of another schema.
    """
    pointer = read_current(root) if version is None else read_current_or_none(root)
    number = version if pointer is None or version is not None else pointer.version
    if number is None:
        raise FileNotFoundError(f"No index is published in {root}. Run `tern index --plan PLAN` first.")
    path = manifest_path(root, number)
    if path.with_suffix("").is_dir():  # schema 1 had a folder per version
        raise ValueError(_schema_message(root, path, 1))
    if not path.is_file():
        named_by = "CURRENT names version" if version is None else "There is no version"
        raise FileNotFoundError(f"{named_by} {number}: {path} is missing. {recovery_hint(root)}")
    is_changed = pointer is not None and pointer.version == number and sha256_file(path) != pointer.manifest_sha256
    changed = f"{path} is not the manifest that CURRENT names (its sha256 differs). {recovery_hint(root)}"
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(changed if is_changed else f"{error} {recovery_hint(root)}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in READABLE_SCHEMAS:  # before the hash, so that an index of another version is not called damaged
        raise ValueError(_schema_message(root, path, schema))
    if is_changed:
        raise ValueError(changed)
    return _parse_manifest(root, path, number, content)


def _parse_manifest(root: Path, path: Path, number: int, content: object) -> Manifest:
    text = path.read_text(encoding="utf-8")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = describe_validation_error(error)
        raise ValueError(f"{path} is not a manifest: {problem}. {recovery_hint(root)}") from error
    if insert_checksum(text.replace(manifest.sha256, CHECKSUM_PLACEHOLDER)) != text:
        raise ValueError(f"{path} is damaged: its sha256 is not the one that it contains. {recovery_hint(root)}")
    if manifest.version != number:
        raise ValueError(f"{path} contains version {manifest.version}: it was renamed or copied. {recovery_hint(root)}")
    return manifest


def _schema_message(root: Path, path: Path, schema: object) -> str:
    program = PROGRAM_BY_SCHEMA.get(schema, "") if isinstance(schema, int) else ""
    message = describe_other_version(root, "index schema", schema, SCHEMA_VERSION, program)
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        return f"{message} {recovery_hint(root)}"
    writer = f"version {program}" if program else "an older version"
    return f"{message} Delete {root} and run 'tern index' again, or install {writer}."


def insert_checksum(text: str) -> str:
    """Replace the placeholder in a manifest's text by the SHA-256 of the text."""
    return text.replace(CHECKSUM_PLACEHOLDER, sha256_text(text))


def write_manifest(root: Path, manifest: Manifest) -> Path:
    """Write a version's manifest atomically, fsynced and read-only.

    Raises:
        FileExistsError: The number is in use: two writers never share one.
    """
    path = manifest_path(root, manifest.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # left by a killed process with the same process id; it is read-only
    try:
        text = json.dumps(manifest.as_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        with add_path_to_errors(temporary):
            temporary.write_text(insert_checksum(text + "\n"), encoding="utf-8")
        temporary.chmod(0o444)
        fsync_path(temporary)
        os.link(temporary, path)  # fails if the name exists, like O_EXCL, and the name appears with its content
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def set_current(root: Path, version: int, pin: bool = False) -> bool:
    """Point CURRENT at a version by one rename; return whether it named another one before.

    Args:
        pin: Whether the version is pinned. Else the pin of an earlier rollback is removed.
    """
    pointer, pin_path = make_pointer(root, version), Path(root) / "PINNED"
    is_other = read_current_or_none(root) != pointer
    if pin:  # before CURRENT: a pin that does not equal CURRENT has no effect
        write_json(pin_path, pointer.model_dump())
    if is_other:
        write_json(Path(root) / "CURRENT", pointer.model_dump())
    if not pin:
        pin_path.unlink(missing_ok=True)
    return is_other


def read_pinned_version(root: Path) -> int | None:
    """Return the number of the published version if a rollback pinned it; None if it is not pinned.

    Whoever publishes without being asked to, such as the nightly run, keeps a pinned version.
    """
    path, pointer = Path(root) / "PINNED", read_current_or_none(root)
    try:
        return pointer.version if pointer is not None and read_pointer(path) == pointer else None
    except (ValueError, FileNotFoundError):
        return None


def check_objects(
    root: Path, manifest: Candidate, content: bool = True, verified_shards: Sequence[ShardManifest] = ()
) -> None:
    """Compare every object of a version with its manifest.

    Args:
        content: Compare hashes too, and not only sizes.
        verified_shards: Shards whose hashes were compared before and are skipped.

    Raises:
        FileNotFoundError: An object is missing; the message names the first.
        ValueError: An object is damaged or of another index.
    """
    for kind, collection in manifest.collections.items():
        for name, part in {"trained index": collection.trained_index, "deleted keys": collection.deleted}.items():
            for ref in iter_refs(part):
                check_object(root, ref, f"{kind} {name}", content)
        for i, shard in enumerate(collection.shards):
            for name, ref in shard.objects.items():
                rehash = content and shard not in verified_shards
                check_object(root, ref, f"{kind} {name} of shard {i}", rehash)


def recovery_hint(root: Path) -> str:
    """Say what to do about a version that cannot be read."""
    numbers = ", ".join(map(str, list_versions(root))) or "none"
    return f"Roll back to a version that passes `tern index verify` (present: {numbers}), or run `tern index` again."

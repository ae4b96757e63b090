"""Versions on disk: built aside, synced, renamed, then pointed to. What CURRENT does not name was never published.

root/CURRENT                      {"version": 3, "manifest_sha256": "..."}
root/versions/v00000003/          manifest.json, image/, caption/, metadata.parquet, lookup.sqlite
root/staging/                     work in progress, never read, cleaned by the next build
root/.writer                      locked by the one process that builds or rolls back
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.files import read_json, sha256_file, sync, write_json

SCHEMA = 1
MANIFEST = "manifest.json"
Progress = Callable[[str], None]


def quiet(step: str) -> None:
    """Progress that nobody wants to see."""


def version_folder(root: Path, version: int) -> Path:
    """Where a version lies."""
    return Path(root) / "versions" / f"v{version:08d}"


def versions(root: Path) -> list[int]:
    """Numbers of the complete versions, oldest first."""
    return [number for number in _numbers(root) if (version_folder(root, number) / MANIFEST).is_file()]


def _numbers(root: Path) -> list[int]:
    names = [path.name for path in Path(root).glob("versions/v*")]
    return sorted(int(name[1:]) for name in names if re.fullmatch(r"v\d{8,}", name))


def current(root: Path) -> dict[str, Any] | None:
    """{"version", "manifest_sha256"} of the published version, None if nothing is published."""
    path = Path(root) / "CURRENT"
    if not path.is_file():
        return None
    pointer = read_json(path)
    if not isinstance(pointer, dict) or not isinstance(pointer.get("version"), int):
        raise ValueError(f"{path} does not name a version ({str(pointer)[:80]!r}). {_remedy(root)}")
    return pointer


def read_manifest(root: Path, version: int | None = None) -> tuple[Path, dict[str, Any]]:
    """(folder, manifest) of `version` (default: the published one), after checking all that is cheap to check.

    That is: the manifest's hash against CURRENT, and every file's size against the manifest.
    Raises FileNotFoundError if nothing is published or a file is missing, ValueError if one does not fit.
    """
    pointer = current(root) if version is None else _readable_pointer(root)
    if version is None and pointer is None:
        raise FileNotFoundError(f"no index is published in {root}: run `tern index` first.")
    number = pointer["version"] if version is None else version
    folder = version_folder(root, number)
    path = folder / MANIFEST
    if not path.is_file():
        named = "CURRENT names" if version is None else "asked for"
        raise FileNotFoundError(f"{named} version {number}, but {path} is missing. {_remedy(root)}")
    if pointer and pointer["version"] == number and sha256_file(path) != pointer.get("manifest_sha256"):
        raise ValueError(f"{path} is not the manifest that CURRENT names (sha256 differs). {_remedy(root)}")
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {manifest.get('schema')}, this program reads {SCHEMA}. {_remedy(root)}")
    _check_sizes(root, folder, manifest)
    return folder, manifest


def check_hashes(root: Path, folder: Path, manifest: dict[str, Any], names: list[str]) -> None:
    """Raise ValueError naming the first of the files `names` whose sha256 is not the manifest's."""
    for name in names:
        found, expected = sha256_file(folder / name), manifest["files"][name]["sha256"]
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged or foreign: sha256 {found[:12]}, the manifest says {expected[:12]}. "
                f"{_remedy(root)}"
            )


def _check_sizes(root: Path, folder: Path, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but the manifest lists it. {_remedy(root)}")
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}: truncated or foreign. "
                f"{_remedy(root)}"
            )


def _remedy(root: Path) -> str:
    others = ", ".join(map(str, versions(root))) or "none"
    return f"Roll back to a version that verifies (present: {others}), or run `tern index` to build again."


def verify(root: Path, version: int | None = None) -> dict[str, Any]:
    """Compare the sha256 of every file of a version with its manifest, which is returned.

    Raises FileNotFoundError or ValueError naming the first file that is missing, damaged or foreign.
    """
    folder, manifest = read_manifest(root, version)
    check_hashes(root, folder, manifest, sorted(manifest["files"]))
    return manifest


def rollback(root: Path, version: int) -> Path:
    """Point CURRENT at another version, older or newer, if it verifies; return its folder."""
    with _writer(root):
        verify(root, version)
        _point(root, version)
    return version_folder(root, version)


def publish(
    root: Path,
    inputs: str,
    fill: Callable[[Path], dict[str, Any]],
    progress: Progress = quiet,
) -> Path:
    """Make the version of `inputs` (a digest of all that goes in) and point CURRENT at it; return its folder.

    `fill(folder)` writes the files and returns what the manifest should say. If a version of equal inputs verifies,
    nothing is made again: so a repeated build costs a reading, and a build that was killed between the rename and
    the switch is finished by the next one. `progress` hears the name of every step once it is done.
    """
    root = Path(root)
    with _writer(root):
        _clean(root)
        version = _same_inputs(root, inputs)
        if version is None:
            version = _make(root, inputs, fill, progress)
        _point(root, version)
        progress("switched")
    return version_folder(root, version)


def _make(root: Path, inputs: str, fill: Callable[[Path], dict[str, Any]], progress: Progress) -> int:
    version = max(_numbers(root), default=0) + 1
    parent = _readable_pointer(root)
    staging = root / "staging" / inputs
    staging.mkdir(parents=True)
    progress("staged")
    body = fill(staging)
    files = {
        path.relative_to(staging).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }
    head = {"schema": SCHEMA, "version": version, "parent": parent and parent["version"], "inputs": inputs}
    write_json(staging / MANIFEST, body | head | {"files": files})
    progress("manifest")
    for path in [*staging.rglob("*"), staging]:
        sync(path)
    folder = version_folder(root, version)
    folder.parent.mkdir(exist_ok=True)
    os.rename(staging, folder)
    sync(folder.parent)
    progress("renamed")
    return version


def _same_inputs(root: Path, inputs: str) -> int | None:
    """The newest version made of equal inputs whose every byte verifies, the published one first."""
    pointer = _readable_pointer(root)
    first = pointer["version"] if pointer else 0
    for version in sorted(versions(root), key=lambda number: (number != first, -number)):
        try:
            if read_json(version_folder(root, version) / MANIFEST).get("inputs") == inputs:
                verify(root, version)
                return version
        except (ValueError, FileNotFoundError):
            continue  # damaged: it is made again under a new number, and stays for someone to look at
    return None


def _point(root: Path, version: int) -> None:
    """Switch what readers see, by one rename."""
    pointer = {"version": version, "manifest_sha256": sha256_file(version_folder(root, version) / MANIFEST)}
    if _readable_pointer(root) != pointer:
        write_json(Path(root) / "CURRENT", pointer)


def _readable_pointer(root: Path) -> dict[str, Any] | None:
    """CURRENT for those who are about to replace it: a broken one counts as none, or nothing could mend it."""
    try:
        return current(root)
    except ValueError:
        return None


def _clean(root: Path) -> None:
    shutil.rmtree(root / "staging", ignore_errors=True)
    for leftover in root.glob(".CURRENT.*.tmp"):
        leftover.unlink()


@contextmanager
def _writer(root: Path) -> Iterator[None]:
    """One writer at a time; the system lets the lock go when its process dies, however it dies."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".writer", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is building or rolling back in {root}; wait for it, then run this again."
            ) from None
        yield

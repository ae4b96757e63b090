"""Model packages: one folder with a trained model and the recipes of the features that it reads.

`config.json` lists every other file with its hash and is written last, so a folder without it is not a package. Its
SHA-256 is the digest of the package. Reading needs pydantic, not torch; `tern.model` reads the weights.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from data.io import describe_other_version, digest, is_within, read_json, sha256_file
from data.text import describe_validation_error
from tern.card.model_card import NETWORK_VERSION
from tern.card.package_records import (
    EXTRACTORS,
    FORMAT,
    METRICS,
    PACKAGE_CONFIG,
    READABLE_PACKAGES,
    TEXT_ENCODER,
    PackageConfig,
    PackageExtractors,
    PackageFile,
)

VERSION = 1  # raise it when the same package gives other vectors
MAX_JSON_BYTES = 16 << 20  # of one JSON file of a package; a recipe with the names of 1,600 classes has 0.1 MB
_RESTORE = "Copy or download the package again."
Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class ModelPackage:
    """A package whose records were read and whose files have the listed sizes; see `verify_package`."""

    folder: Path
    name: str
    """Name for messages and cards: that of the folder, or of the model on a hub."""
    digest: str
    """SHA-256 of `config.json`, 64 hex digits; it follows from the content of all files."""
    config: PackageConfig
    extractors: PackageExtractors

    def name_model(self, region_recipe: str, token_recipe: str) -> str:
        """Return the name of the model of this package in a workspace, given the digests of its stores."""
        recipes = {"region_recipe": region_recipe, "token_recipe": token_recipe}
        return f"tern-{digest(['package', VERSION, self.digest, recipes])}"

    def find(self, name: str) -> Path | None:
        """Return the path of a file of the package, or None if the package does not have it."""
        return self.folder / name if name in self.config.files else None


def is_package(folder: Path) -> bool:
    """Return whether a folder says that it is a model package; whether it can be read is not checked."""
    path = Path(folder) / PACKAGE_CONFIG
    try:
        _check_regular_file(path, None)
        content = _read_small_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_package_config(folder: Path) -> PackageConfig | None:
    """Read the config of the package that a model was imported from, in its folder; None if there is none.

    Raises:
        ValueError: The file is damaged, or another version of this program wrote it.
    """
    path = Path(folder) / PACKAGE_CONFIG
    return _read_config(path) if path.is_file() else None


def read_package(folder: Path, name: str = "", link_root: Path | None = None) -> ModelPackage:
    """Read the records of a package, and check that all its files are there with their sizes.

    Args:
        folder: The folder.
        name: Name of the package; empty for that of the folder.
        link_root: Folder that the files may link into, such as the cache of a hub; None refuses links.

    Raises:
        FileNotFoundError: The folder is not a package, or a file of it is missing.
        ValueError: It is a package of another version of this program, or is damaged.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    path = folder / PACKAGE_CONFIG
    if not os.path.lexists(path):
        what = "is not a model package: it has no config.json" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"{folder} {what}. Pass a folder that `tern model export` wrote.")
    _check_regular_file(path, link_root)
    config = _read_config(path)
    if config.fine_tuned != (TEXT_ENCODER in config.files):
        raise ValueError(
            f"{path}: fine_tuned is {config.fine_tuned}, which does not fit to its list of files. {_RESTORE}"
        )
    for file in config.files:
        _check_size(folder / file, config.files[file], link_root)
    _check_hash(folder / EXTRACTORS, config.files[EXTRACTORS])
    extractors = _validate(PackageExtractors, _read_small_json(folder / EXTRACTORS), folder / EXTRACTORS)
    for extractor in (extractors.regions, extractors.text):
        if missing := [p.file for p in extractor.paths.values() if p.file and p.file not in config.files]:
            raise ValueError(f"{folder / EXTRACTORS} names {missing[0]}, which the package does not have. {_RESTORE}")
    return ModelPackage(folder, name, sha256_file(path), config, extractors)


def read_package_metrics(package: ModelPackage) -> dict[str, dict[str, float]]:
    """Read the figures of a package by split and by the names of `SplitEvaluation.flat`; only numbers are returned.

    Raises:
        ValueError: The file has changed, or does not hold figures.
    """
    path = package.folder / METRICS
    _check_hash(path, package.config.files[METRICS])
    content = _read_small_json(path)
    if not isinstance(content, dict) or not all(isinstance(values, dict) for values in content.values()):
        raise ValueError(f"{path} does not hold figures by split. {_RESTORE}")
    return {
        split: {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for split, values in content.items()
    }


def verify_package(package: ModelPackage) -> Iterator[str]:
    """Compare every file of a package with its hash; yield the name of each file that is intact.

    Raises:
        ValueError: The content of a file has changed.
    """
    for name, file in sorted(package.config.files.items()):
        _check_hash(package.folder / name, file)
        yield name


def _read_config(path: Path) -> PackageConfig:
    content = _read_small_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not that of a model package. Pass a folder that `tern model export` wrote.")
    for what, found, readable in (
        ("package schema", content.get("schema"), READABLE_PACKAGES),
        ("network version", content.get("network"), (NETWORK_VERSION,)),
    ):
        if found not in readable:
            raise ValueError(
                f"{describe_other_version(path, what, found, readable[-1])} Use the version that wrote it, or export "
                "the model again."
            )
    return _validate(PackageConfig, content, path)


def _validate(record: type[Record], content: Any, path: Path) -> Record:
    try:
        return record.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"{path} is not that of a model package: {describe_validation_error(error)}. {_RESTORE}"
        ) from error


def _read_small_json(path: Path) -> Any:
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; at most {MAX_JSON_BYTES:,} are read. {_RESTORE}")
    return read_json(path)


def _check_regular_file(path: Path, link_root: Path | None) -> os.stat_result:
    """Return the status of a file that is there, and is no link out of the package."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f"The model package lacks {path}. {_RESTORE}")
    if path.is_symlink() and (link_root is None or not is_within(path, link_root)):
        raise ValueError(f"{path} is a link, which a model package may not have. Copy the files themselves.")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a file. {_RESTORE}")
    return status


def _check_size(path: Path, expected: PackageFile, link_root: Path | None) -> None:
    size = _check_regular_file(path, link_root).st_size
    if size != expected.bytes:
        raise ValueError(f"{path} has {size:,} bytes, but {expected.bytes:,} are expected. {_RESTORE}")


def _check_hash(path: Path, expected: PackageFile) -> None:
    actual = sha256_file(path)
    if actual != expected.sha256:
        raise ValueError(f"{path} has sha256 {actual}, but {expected.sha256} is expected. {_RESTORE}")

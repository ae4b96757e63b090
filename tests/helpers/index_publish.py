"""Publish small index versions, and hash the files of an index, for the tests of versions."""

from collections.abc import Callable
from pathlib import Path

from data.io.digests import sha256_file
from index.building.build import build_index
from index.collection import IndexInputs
from index.config import IndexConfig
from index.versions.events import FILE
from tests.helpers.index_world import make

CONFIG = IndexConfig(shards=2, nlist=4)


def publish(root: Path, seed: int, on_step: Callable[[str], None] = lambda step: None) -> Path:
    """Build and publish the vectors of a seed."""
    return build_index(CONFIG, IndexInputs(*make(seed, images=60), {"seed": seed}), root, on_step)


def bytes_of(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of an index except the event log, by relative path."""
    return {
        str(path.relative_to(root)): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != FILE
    }

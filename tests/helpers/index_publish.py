"""Index publish of `tests`."""

from collections.abc import Callable
from pathlib import Path

from data.io.digests import sha256_file
from index.building.build import build_index
from index.config import IndexConfig
from index.versions.events import FILE
from tests.helpers.index_world import make

CONFIG = IndexConfig(shards=2, nlist=4)


def publish(root: Path, seed: int, progress: Callable[[str], None] = lambda step: None) -> Path:
    return build_index(CONFIG, *make(seed, images=60), root, provenance={"seed": seed}, on_step=progress)


def bytes_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != FILE
    }

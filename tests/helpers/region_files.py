"""Region stores and lines of TSV files for the tests of region formats."""

import base64
import hashlib
from pathlib import Path

import numpy as np

from data.formats.catalogue import FORMATS
from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item, ShardPlan
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit


def b64(values, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


def line(name: str, rows: int = 2, **change: str) -> str:
    cells = {"id": name, "h": "40", "w": "50", "objects": b64([1] * rows, "i8"), "conf": b64([0.5] * rows, "f4")}
    cells |= {"attrs": b64([1] * rows, "i8"), "aconf": b64([0.5] * rows, "f4"), "n": str(rows)}
    cells |= {"boxes": b64(np.ones((rows, 4)), "f4"), "features": b64(np.ones((rows, 3)), "f4")}
    return "\t".join({**cells, **change}.values())


TARGETS = {".tsv": "out.tsv", "_ims.npy": "test_ims.npy", ".hdf5": "train36.hdf5", ".npz": "out.npz", "": "folder"}


def fill(root: Path, content: dict[str, dict[str, np.ndarray]], dtype: str = "float32") -> Path:
    folder = open_or_create_store(root, "regions", {"model": "test"}, dtype)
    hashes = [hashlib.sha256(b"".join(map(np.ndarray.tobytes, fields.values()))) for fields in content.values()]
    plan = ShardPlan(tuple(Item(name, found.hexdigest()) for name, found in zip(content, hashes, strict=True)))
    commit(folder, [write_shard(folder, plan, content.values())])
    return folder


def some(count: int, rows=lambda i: 1 + i % 4, dim: int = 8, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Make the fields of images 7, 10, 13, ... as an extractor returns them."""
    rng, found = np.random.default_rng(seed), {}
    for i in range(count):
        n, size = rows(i), rng.integers(50, 600, 2)
        corners = np.sort(rng.random((n, 2, 2)), axis=1).reshape(n, 4) * np.tile(size, 2)
        fields = {"features": np.maximum(rng.normal(size=(n, dim)), 0), "boxes": corners, "scores": rng.random(n)}
        fields |= {"attr_scores": rng.random(n), "size": size.astype("i4")}
        fields |= {key: rng.integers(0, 400, n).astype("i4") for key in ("class_ids", "attr_ids")}
        found[str(7 + 3 * i)] = {k: v.astype("f4") if v.dtype == "f8" else v for k, v in fields.items()}
    return found


def target(folder: Path, name: str) -> Path:
    return folder / TARGETS[FORMATS[name].suffix]


def same(store: Store, content: dict[str, dict[str, np.ndarray]], carried: set[str]) -> None:
    assert set(store.ids) == set(content)
    for name, fields in content.items():
        for key in {"features"} | carried:
            assert store.read(key, [name]).tobytes() == np.ascontiguousarray(fields[key]).tobytes(), (name, key)

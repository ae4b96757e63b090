"""A reader written from docs/reference/index-format.md alone finds what the index finds."""

import ast
import hashlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.building.update import update_index
from index.collection import IndexInputs
from index.search.index import Index
from tests.helpers.index_live import CONFIG, first_images, publish
from tests.helpers.index_world import make

COLUMNS = ("kind", "id", "image_id", "text", "path", "split", "width", "height", "content_hash")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parse_npy(content: bytes) -> tuple[np.ndarray, bytes]:
    """Return the first .npy array (format 1.0) of some bytes, and the remaining bytes."""
    assert content[:8] == b"\x93NUMPY\x01\x00"
    start = 10 + int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10:start].decode())
    end = start + int(np.prod(header["shape"])) * np.dtype(header["descr"]).itemsize
    return np.frombuffer(content[start:end], header["descr"]).reshape(header["shape"]), content[end:]


class Reader:
    """The published version of an index."""

    def __init__(self, root: Path):
        self.root = root
        pointer = json.loads((root / "CURRENT").read_bytes())
        text = (root / "versions" / f"v{pointer['version']:08d}.json").read_text()
        assert sha256(text.encode()) == pointer["manifest_sha256"]
        self.manifest = json.loads(text)
        checksum = self.manifest["sha256"]
        assert sha256(text.replace(checksum, "0" * 64).encode()) == checksum
        assert self.manifest["schema"] == 7

    def read_object(self, ref: dict) -> bytes:
        content = (self.root / "objects" / ref["sha256"][:2] / ref["sha256"]).read_bytes()
        assert (len(content), sha256(content)) == (ref["bytes"], ref["sha256"])
        return content

    def read_live_rows(self, kind: str) -> list[tuple[int, np.ndarray, dict]]:
        """Return (key, vector, row) of all live rows."""
        collection_manifest = self.manifest["collections"][kind]
        deleted = collection_manifest["deleted"]
        deleted_keys = set(parse_npy(self.read_object(deleted["keys"]))[0].tolist()) if deleted else set()
        live = []
        for shard in collection_manifest["shards"]:
            keys, rest = parse_npy(self.read_object(shard["vectors"]))
            vectors, rest = parse_npy(rest)
            assert (rest, vectors.shape, keys.dtype, vectors.dtype) == (
                b"",
                (len(keys), collection_manifest["dim"]),
                "<i8",
                "<f2",
            )
            assert (np.diff(keys) > 0).all()
            self.read_object(shard["lookup"])
            path = self.root / "objects" / shard["lookup"]["sha256"][:2] / shard["lookup"]["sha256"]
            lookup = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            values = {line[0]: line[1:] for line in lookup.execute(f"SELECT key, {', '.join(COLUMNS)} FROM items")}
            lookup.close()
            for key, vector in zip(keys.tolist(), vectors, strict=True):
                row = dict(zip(COLUMNS, values.pop(key), strict=True))
                if key not in deleted_keys:
                    live.append((key, vector, row))
            assert not values, "rows without a vector"
        assert len(live) == collection_manifest["counts"]["live"]
        return live


def compute_key(row: dict) -> int:
    text = json.dumps(
        {k: v for k, v in row.items() if v is not None}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[-8:], "big") % 2**63


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_independent_reader_finds_what_index_finds(kind, tmp_path):
    publish(tmp_path, 1)
    changed = first_images(1, 40)  # 20 images are removed, and one text has changed
    rows = list(changed["caption"].metadata)
    rows[3] = rows[3]._replace(text='Übung "in" 東京\n')
    changed["caption"] = replace(changed["caption"], metadata=rows)
    update_index(CONFIG, IndexInputs(changed, provenance={"seed": 1}), tmp_path)
    reader = Reader(tmp_path)
    assert (reader.manifest["version"], reader.manifest["parent"]) == (2, 1)
    assert reader.manifest["collections"]["caption"]["counts"]["deleted"] == 41
    live = reader.read_live_rows(kind)
    assert all(key == compute_key(row) for key, _, row in live)
    queries = make(1, images=60)[1][kind][:20]
    scores = queries @ np.stack([vector for _, vector, _ in live]).astype(np.float32).T
    with Index.open(tmp_path) as index:
        for line, hits in zip(scores, index.search(queries, 5, kind), strict=True):
            best = sorted(range(len(live)), key=lambda i: (-line[i], live[i][0]))[:5]
            assert [live[i][2]["id"] for i in best] == [hit.id for hit in hits]
            assert [live[i][2]["text"] for i in best] == [hit.metadata.text for hit in hits]

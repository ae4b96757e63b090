"""A reader written from docs/reference/index-format.md alone, without the package, faiss or pyarrow."""

import ast
import hashlib
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from index.building.update import update_index
from index.search.index import Index
from tests.helpers.index_live import CONFIG, fewer, publish
from tests.helpers.index_world import make

COLUMNS = ("kind", "id", "image_id", "text", "path", "split", "width", "height", "content_hash")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def npy(content: bytes) -> tuple[np.ndarray, bytes]:
    """The first .npy array (format 1.0) of some bytes, and the bytes behind it."""
    assert content[:8] == b"\x93NUMPY\x01\x00"
    start = 10 + int.from_bytes(content[8:10], "little")
    about = ast.literal_eval(content[10:start].decode())
    end = start + int(np.prod(about["shape"])) * np.dtype(about["descr"]).itemsize
    return np.frombuffer(content[start:end], about["descr"]).reshape(about["shape"]), content[end:]


class Reader:
    """The published version of an index."""

    def __init__(self, root: Path):
        self.root = root
        pointer = json.loads((root / "CURRENT").read_bytes())
        text = (root / "versions" / f"v{pointer['version']:08d}.json").read_text()
        assert sha256(text.encode()) == pointer["manifest_sha256"]
        self.manifest = json.loads(text)
        seal = self.manifest["sha256"]
        assert sha256(text.replace(seal, "0" * 64).encode()) == seal
        assert self.manifest["schema"] == 3

    def object(self, ref: dict) -> bytes:
        content = (self.root / "objects" / ref["sha256"][:2] / ref["sha256"]).read_bytes()
        assert (len(content), sha256(content)) == (ref["bytes"], ref["sha256"])
        return content

    def rows(self, kind: str) -> list[tuple[int, np.ndarray, dict]]:
        """(key, vector, row) of all that may be answered."""
        about = self.manifest["collections"][kind]
        dead = set(npy(self.object(about["deleted"]["keys"]))[0].tolist()) if about["deleted"] else set()
        found = []
        for shard in about["shards"]:
            keys, rest = npy(self.object(shard["vectors"]))
            vectors, rest = npy(rest)
            assert (rest, vectors.shape, keys.dtype, vectors.dtype) == (b"", (len(keys), about["dim"]), "<i8", "<f2")
            assert (np.diff(keys) > 0).all()
            self.object(shard["lookup"])
            path = self.root / "objects" / shard["lookup"]["sha256"][:2] / shard["lookup"]["sha256"]
            lookup = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            said = {line[0]: line[1:] for line in lookup.execute(f"SELECT key, {', '.join(COLUMNS)} FROM items")}
            lookup.close()
            for key, vector in zip(keys.tolist(), vectors, strict=True):
                row = dict(zip(COLUMNS, said.pop(key), strict=True))
                if key not in dead:
                    found.append((key, vector, row))
            assert not said, "rows without a vector"
        assert len(found) == about["counts"]["live"]
        return found


def key_of(row: dict) -> int:
    text = json.dumps(
        {k: v for k, v in row.items() if v is not None}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[-8:], "big") % 2**63


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_a_reader_of_another_hand_finds_what_the_index_finds(kind, tmp_path):
    publish(tmp_path, 1)
    changed = fewer(1, 40)  # 20 images are gone, and a text has changed
    rows = [dict(row) for row in changed["caption"].metadata]
    rows[3]["text"] = 'Übung "in" 東京\n'
    changed["caption"] = type(changed["caption"])(changed["caption"].ids, changed["caption"].vectors, rows)
    update_index(CONFIG, changed, tmp_path, {"seed": 1})
    reader = Reader(tmp_path)
    assert (reader.manifest["version"], reader.manifest["parent"]) == (2, 1)
    assert reader.manifest["collections"]["caption"]["counts"]["deleted"] == 41
    known = reader.rows(kind)
    assert all(key == key_of(row) for key, _, row in known)
    queries = make(1, images=60)[1][kind][:20]
    scores = queries @ np.stack([vector for _, vector, _ in known]).astype(np.float32).T
    with Index.open(tmp_path) as index:
        for line, hits in zip(scores, index.search(queries, 5, kind), strict=True):
            best = sorted(range(len(known)), key=lambda i: (-line[i], known[i][0]))[:5]
            assert [known[i][2]["id"] for i in best] == [hit.id for hit in hits]
            assert [known[i][2]["text"] for i in best] == [hit.metadata["text"] for hit in hits]

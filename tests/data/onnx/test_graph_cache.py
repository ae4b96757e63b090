"""The cache of graphs: a graph is hashed once, and again after any change; the graphs not used for longest go first."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.io import stamps
from data.io.digests import sha256_file
from data.onnx import cache
from data.onnx.cache import CachedGraph

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in which a file counts as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stamps, "MIN_AGE_SECONDS", -9.0)
    return tmp_path / "tern" / "onnx"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed."""
    paths: list[Path] = []

    def record(path: Path) -> str:
        paths.append(path)
        return sha256_file(path)

    monkeypatch.setattr(cache, "sha256_file", record)
    return paths


def write_graph(number: int = 0) -> CachedGraph:
    graph = CachedGraph("graph", {"number": number}, ".ort")
    graph.write(lambda path: path.write_bytes(CONTENT))
    return graph


def rewrite_in_place(path: Path, content: bytes) -> None:
    """Change a file and restore its mtime."""
    stat = path.stat()
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)


FLIPPED = CONTENT[:-9] + bytes([CONTENT[-9] ^ 1]) + CONTENT[-8:]
DAMAGES = {
    "one bit, with its mtime restored": lambda path: rewrite_in_place(path, FLIPPED),
    "truncated": lambda path: rewrite_in_place(path, CONTENT[:-1]),
    "replaced by a file of the same size and mtime": lambda path: replace(path, FLIPPED),
    "gone": Path.unlink,
}
HARMLESS = {
    "touched": os.utime,
    "restored from a copy": lambda path: replace(path, CONTENT),
    "written again": lambda path: rewrite_in_place(path, CONTENT),
}


def test_unchanged_graph_is_hashed_once(hashed: list[Path]) -> None:
    graph = write_graph()
    hashed.clear()  # writing hashes too
    entries = [graph.find(rehash=False), CachedGraph("graph", {"number": 0}, ".ort").find(rehash=False)]
    assert hashed == [graph.path]
    assert [entry and entry.sha256 for entry in entries] == [sha256_file(graph.path)] * 2
    assert graph.find()
    assert hashed == [graph.path] * 2, "what does not trust stamps hashes it at each start"


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_damaged_graph_is_not_found_after_it_was_verified(change: Callable[[Path], None]) -> None:
    graph = write_graph()
    assert graph.find(rehash=False)
    time.sleep(0.02)  # ticks of the clock of the file system
    change(graph.path)
    assert graph.find(rehash=False) is None
    assert graph.find(rehash=False) is None, "nor is the damage taken over"


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_changed_file_with_equal_content_is_hashed_again_once(
    change: Callable[[Path], None], hashed: list[Path]
) -> None:
    graph = write_graph()
    assert graph.find(rehash=False)
    time.sleep(0.02)
    change(graph.path)
    hashed.clear()
    assert graph.find(rehash=False)
    assert graph.find(rehash=False)
    assert hashed == [graph.path]


def test_recently_written_graph_is_hashed_at_each_start(hashed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a file system may be too coarse to show a second change."""
    monkeypatch.setattr(stamps, "MIN_AGE_SECONDS", 3600.0)
    graph = write_graph()
    hashed.clear()
    assert graph.find(rehash=False)
    assert graph.find(rehash=False)
    assert hashed == [graph.path] * 2


def test_graph_that_was_not_used_for_longest_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_CACHED", 2)
    used, unused = write_graph(1), write_graph(2)
    assert used.find(rehash=False), "its stamp is known from now on, so that only the time of use is written below"
    for graph, age in ((used, 9_000), (unused, 8_000)):
        then = time.time() - age
        os.utime(graph.path.with_suffix(".json"), (then, then))
    assert used.find(rehash=False)
    new = write_graph(3)
    kept = {graph.path.with_suffix(suffix) for graph in (used, new) for suffix in (".ort", ".json")}
    assert set(folder.iterdir()) == kept

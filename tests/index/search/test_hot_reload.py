"""Readers never stop: versions come and go under searching threads and processes, and every answer is right."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from index.building.compact import compact_index
from index.building.update import update_index
from index.search.hot_reload import HotReloader
from index.search.index import Index
from index.versions.folder import list_versions, manifest_path, read_current, read_version_manifest
from index.versions.garbage import collect_garbage
from index.versions.objects import object_path
from index.versions.switch import rollback
from tests.helpers.index_live import CONFIG, expected, fewer, publish, searching

HERE = Path(__file__).parents[3]
PROCESS = """
import json, select, sys
from collections import Counter
from index.search import HotReloader, Index
from tests.helpers.index_live import searching
right = json.loads(sys.argv[2])
seen = Counter()
live = HotReloader(sys.argv[1], lambda version: Index.open(sys.argv[1], version), every=0)
print("ready", flush=True)
searching(live, right, lambda: bool(select.select([sys.stdin], [], [], 0)[0]), seen)
print(json.dumps(seen))
"""


def test_twenty_publishes_an_update_a_compaction_rollbacks_and_collections_under_readers(tmp_path):
    right = {f"{seed} 60": answer for seed, answer in expected(range(1, 22)).items()}
    right["11 45"] = expected(range(11, 12), 45)[11]
    assert right["11 45"] != right["11 60"], "too easy: no answer is among those that go"
    publish(tmp_path, 1)
    live = HotReloader(tmp_path, lambda version: Index.open(tmp_path, version), every=0)
    stop, threads_saw = threading.Event(), Counter()
    threads = [threading.Thread(target=searching, args=(live, right, stop.is_set, threads_saw)) for _ in range(4)]
    command = [sys.executable, "-c", PROCESS, str(tmp_path), json.dumps(right)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": HERE}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for thread in threads:
        thread.start()
    removed: list[int] = []
    for seed in range(2, 22):
        publish(tmp_path, seed)
        if seed == 11:  # rows that are dead, then gone
            update_index(CONFIG, fewer(11, 45), tmp_path, {"seed": 11})
            time.sleep(0.1)
            compact_index(tmp_path)
            time.sleep(0.1)
        if seed % 5 == 0:
            rollback(tmp_path, read_current(tmp_path)["version"] - 1)
            removed += collect_garbage(tmp_path, keep=2).versions
    stop.set()
    for thread in threads:
        thread.join()
    saw = [threads_saw] + [
        Counter(json.loads(process.communicate("stop\n")[0].splitlines()[-1])) for process in processes
    ]
    last = list_versions(tmp_path)[-1]
    for seen in saw:
        assert all(version.isdigit() for version in seen), seen
        assert len(seen) >= 5, f"hardly any version was seen: {seen}"
        assert seen[str(last)], "the last version is served"
    assert len(removed) >= 10
    live.close()
    assert collect_garbage(tmp_path, keep=1).kept == {last: "served"}, "nothing is held any more"


class Noted:
    """Something that is opened, and says when it is closed."""

    def __init__(self, root: Path, version: int | None, closed: list[int]):
        self.index = Index.open(root, version)
        self.version, self._closed = self.index.version, closed

    def close(self) -> None:
        self._closed.append(self.version)
        self.index.close()


@pytest.fixture
def root(tmp_path) -> Path:
    publish(tmp_path, 1)
    return tmp_path


def test_an_old_version_closes_after_its_last_request(root):
    closed: list[int] = []
    live = HotReloader(root, lambda version: Noted(root, version, closed), every=0)
    with live.borrow() as one, live.borrow() as too:
        publish(root, 2)
        with live.borrow() as new:
            assert (one.version, too.version, new.version, closed) == (1, 1, 2, [])
    assert closed == [1]
    for version in (1, 2, 1):
        with live.borrow(version) as pinned:
            assert pinned.version == version
    publish(root, 3)
    with live.borrow(3), live.borrow(2):
        pass
    assert closed == [1, 2, 1], "of the pinned ones, the one that was not asked for longest"
    live.close()
    assert sorted(closed) == [1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "error", [KeyError("model"), RuntimeError("of faiss"), sqlite3.OperationalError("no file left")]
)
def test_whatever_goes_wrong_with_a_new_version_the_old_one_answers(error, root):
    def opening(version):
        index = Index.open(root, version)
        if index.version == 2 and not mended:
            index.close()
            raise error
        return index

    mended: list[bool] = []
    live = HotReloader(root, opening, every=0)
    publish(root, 2)
    with live.borrow() as index:
        assert (index.version, live.last_error) == (1, str(error))
    mended.append(True)
    with live.borrow() as index:
        assert (index.version, live.last_error) == (2, None)


def test_a_version_that_cannot_be_opened_leaves_the_old_one_answering(root, caplog):
    live = HotReloader(root, lambda version: Index.open(root, version), every=0)
    publish(root, 2)
    path = manifest_path(root, 2)
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-5])
    for _ in range(3):
        with live.borrow() as index:
            assert index.version == 1
    assert "not the manifest that CURRENT names" in live.last_error
    assert len(caplog.records) == 1, "said once"
    path.write_bytes(whole)
    lists = object_path(root, read_version_manifest(root, 2).collections["image"].shards[1].inverted_lists)
    lists.chmod(0o644)
    good = lists.read_bytes()
    lists.write_bytes(b"\xff" * len(good))
    with live.borrow() as index:
        assert index.version == 1
    assert re.search(rf"{lists.name} holds no lists that faiss can open: .*Roll back", live.last_error, re.DOTALL)
    lists.write_bytes(good)
    with live.borrow() as index:
        assert (index.version, live.last_error) == (2, None)
    with pytest.raises(FileNotFoundError, match="asked for version 9"), live.borrow(9):
        pass
    assert list_versions(root) == [1, 2]

"""Searching threads and processes get correct results while versions are published and deleted."""

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
from index.collection import IndexInputs
from index.search.hot_reload import HotReloader
from index.search.index import Index
from index.versions.folder import list_versions, manifest_path, read_current, read_version_manifest
from index.versions.garbage import collect_garbage
from index.versions.objects import object_path
from index.versions.switch import rollback
from tests.helpers.index_live import CONFIG, exact_results, first_images, publish, search_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
READER_SCRIPT = """
import json, select, sys
from collections import Counter
from index.search import HotReloader, Index
from tests.helpers.index_live import search_until
expected = json.loads(sys.argv[2])
outcomes = Counter()
reloader = HotReloader(sys.argv[1], lambda version: Index.open(sys.argv[1], version), poll_seconds=0)
print("ready", flush=True)
search_until(reloader, expected, lambda: bool(select.select([sys.stdin], [], [], 0)[0]), outcomes)
print(json.dumps(outcomes))
"""


@pytest.mark.slow
def test_readers_are_correct_during_publish_update_compaction_rollback_and_garbage_collection(tmp_path):
    expected = {f"{seed} 60": ids for seed, ids in exact_results(range(1, 22)).items()}
    expected["11 45"] = exact_results(range(11, 12), 45)[11]
    assert expected["11 45"] != expected["11 60"], "too easy: no result is among the deleted rows"
    publish(tmp_path, 1)
    reloader = HotReloader(tmp_path, lambda version: Index.open(tmp_path, version), poll_seconds=0)
    stop, thread_outcomes = threading.Event(), Counter()
    arguments = (reloader, expected, stop.is_set, thread_outcomes)
    threads = [threading.Thread(target=search_until, args=arguments) for _ in range(4)]
    command = [sys.executable, "-c", READER_SCRIPT, str(tmp_path), json.dumps(expected)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    processes = [subprocess.Popen(command, **options) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for thread in threads:
        thread.start()
    removed: list[int] = []
    for seed in range(2, 22):
        publish(tmp_path, seed)
        if seed == 11:  # rows are deleted, then removed from the shards
            update_index(CONFIG, IndexInputs(first_images(11, 45), provenance={"seed": 11}), tmp_path)
            time.sleep(0.1)
            compact_index(tmp_path)
            time.sleep(0.1)
        if seed % 5 == 0:
            rollback(tmp_path, read_current(tmp_path).version - 1)
            removed += collect_garbage(tmp_path, keep=2).versions
    stop.set()
    for thread in threads:
        thread.join()
    outputs = [process.communicate("stop\n")[0] for process in processes]
    process_outcomes = [Counter(json.loads(output.splitlines()[-1])) for output in outputs]
    last = list_versions(tmp_path)[-1]
    for outcomes in (thread_outcomes, *process_outcomes):
        assert all(version.isdigit() for version in outcomes), outcomes
        assert len(outcomes) >= 5, f"too few versions were searched: {outcomes}"
        assert outcomes[str(last)], "the last version is served"
    assert len(removed) >= 10
    reloader.close()
    assert collect_garbage(tmp_path, keep=1).kept == {last: "served"}, "no version is held after close"


class RecordedIndex:
    """An open version that records when it is closed."""

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


def test_old_version_closes_after_its_last_request(root):
    closed: list[int] = []
    reloader = HotReloader(root, lambda version: RecordedIndex(root, version, closed), poll_seconds=0)
    with reloader.borrow() as one, reloader.borrow() as other:
        publish(root, 2)
        with reloader.borrow() as new:
            assert (one.version, other.version, new.version, closed) == (1, 1, 2, [])
    assert closed == [1]
    for version in (1, 2, 1):
        with reloader.borrow(version) as pinned:
            assert pinned.version == version
    publish(root, 3)
    with reloader.borrow(3), reloader.borrow(2):
        pass
    assert closed == [1, 2, 1], "the least recently used pinned version"
    reloader.close()
    assert sorted(closed) == [1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "error", [KeyError("model"), RuntimeError("of faiss"), sqlite3.OperationalError("no file left")]
)
def test_previous_version_is_served_after_any_error_of_a_new_one(error, root):
    def open_version(version):
        index = Index.open(root, version)
        if index.version == 2 and not repaired:
            index.close()
            raise error
        return index

    repaired: list[bool] = []
    reloader = HotReloader(root, open_version, poll_seconds=0)
    publish(root, 2)
    with reloader.borrow() as index:
        assert (index.version, reloader.last_error) == (1, str(error))
    repaired.append(True)
    with reloader.borrow() as index:
        assert (index.version, reloader.last_error) == (2, None)


def test_error_ends_when_served_version_is_current_again(root):
    reloader = HotReloader(root, lambda version: Index.open(root, version), poll_seconds=0)
    content = (root / "CURRENT").read_bytes()
    (root / "CURRENT").unlink()
    with reloader.borrow() as index:
        assert index.version == 1
    assert "No index is published" in reloader.last_error
    (root / "CURRENT").write_bytes(content)
    with reloader.borrow() as index:
        assert (index.version, reloader.last_error) == (1, None)


def test_previous_version_is_served_if_new_one_is_damaged(root, caplog):
    reloader = HotReloader(root, lambda version: Index.open(root, version), poll_seconds=0)
    publish(root, 2)
    path = manifest_path(root, 2)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-5])
    for _ in range(3):
        with reloader.borrow() as index:
            assert index.version == 1
    assert "not the manifest that CURRENT names" in reloader.last_error
    assert len(caplog.records) == 1, "logged once"
    path.write_bytes(content)
    lists = object_path(root, read_version_manifest(root, 2).collections["image"].shards[1].inverted_lists)
    lists.chmod(0o644)
    content = lists.read_bytes()
    lists.write_bytes(b"\xff" * len(content))
    with reloader.borrow() as index:
        assert index.version == 1
    message = rf"FAISS cannot open the inverted lists in .*{lists.name}: .*Roll back"
    assert re.search(message, reloader.last_error, re.DOTALL)
    lists.write_bytes(content)
    with reloader.borrow() as index:
        assert (index.version, reloader.last_error) == (2, None)
    with pytest.raises(FileNotFoundError, match="no version 9"), reloader.borrow(9):
        pass
    assert list_versions(root) == [1, 2]

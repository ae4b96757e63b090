"""Tags and garbage collection: what may be needed is kept, everything else is deleted, and references stay complete."""

import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from data.io.files import temporary_path
from index.building.build import build_index
from index.collection import IndexInputs
from index.exchange import export
from index.exchange.export import export_index
from index.search.index import Index
from index.versions import reader_lock
from index.versions.events import read_events
from index.versions.folder import list_versions, manifest_path, read_current
from index.versions.garbage import collect_garbage
from index.versions.switch import RejectedError, rollback, verify_version
from index.versions.tags import add_tag, list_tags, remove_tag, resolve_version
from index.versions.verdict import GateVerdict
from tests.helpers.index_live import referenced_hashes
from tests.helpers.index_publish import CONFIG, publish
from tests.helpers.index_world import make

REJECTED = "rejected after the served version"


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    """Five versions that passed and a sixth that was rejected."""
    root = tmp_path_factory.mktemp("five")
    for seed in range(1, 6):
        publish(root, seed)
    with pytest.raises(RejectedError):
        build_index(
            CONFIG, IndexInputs(*make(6, images=60)), root, gate=lambda candidate, served: GateVerdict(passed=False)
        )
    return root


@pytest.fixture
def root(five, tmp_path) -> Path:
    return shutil.copytree(five, tmp_path / "index")


READER_SCRIPT = """
import sys, time
from index.search.index import Index
index = Index.open(sys.argv[1], 3)
print("open", flush=True)
sys.stdin.read()
"""


def test_garbage_collection_keeps_needed_versions_and_deletes_others(root):
    add_tag(root, "keep-me", 1)
    command = [sys.executable, "-c", READER_SCRIPT, root]
    with (
        Index.open(root, 2) as reader,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other_reader,
    ):
        other_reader.stdout.readline()
        before = sorted(root.rglob("*"))
        dry_report = collect_garbage(root, keep=1, dry_run=True)
        assert [path for path in sorted(root.rglob("*")) if path.name != ".writer"] == [
            path for path in before if path.name != ".writer"
        ]
        report = collect_garbage(root, keep=1)
        assert report == dry_report
        assert report.kept == {
            1: "tagged keep-me",
            2: "open in a reader",
            3: "open in a reader",
            5: "served",
            6: REJECTED,
        }
        assert (report.versions, list_versions(root)) == ([4], [1, 2, 3, 5, 6])
        assert report.objects > 0
        assert {path.name for path in root.glob("objects/*/*")} == referenced_hashes(root)
        assert reader.search(make(1, images=60)[1]["image"][:1], 1)[0]
        other_reader.kill()
    assert collect_garbage(root, keep=1).versions == [2, 3], "closed and killed readers hold nothing"
    assert {path.name for path in root.glob("objects/*/*")} == referenced_hashes(root)
    for version in list_versions(root):
        verify_version(root, version)
    remove_tag(root, "keep-me")
    assert collect_garbage(root, keep=1).versions == [1]
    assert collect_garbage(root, keep=1).objects == 0
    publish(root, 7)
    assert list_versions(root) == [5, 6, 7], "no number is used twice"


def test_dropped_reader_holds_nothing(root):
    index = Index.open(root, 1)
    assert collect_garbage(root, keep=1, dry_run=True).kept[1] == "open in a reader"
    del index
    gc.collect()
    assert 1 in collect_garbage(root, keep=1).versions


def test_closed_index_with_cached_filter_is_freed_at_once(root):
    index = Index.open(root)
    assert index.count_matching("width = 9") == 60
    index.close()
    reference = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert reference() is None
    finally:
        gc.enable()


def test_open_retries_if_version_is_deleted_after_current_moved_on(root, monkeypatch):
    rollback(root, 3)
    read_manifest = reader_lock.read_version_manifest

    def read_late(root: Path, version: int | None = None):
        monkeypatch.setattr(reader_lock, "read_version_manifest", read_manifest)
        rollback(root, 5)
        manifest_path(root, 3).unlink()
        return read_manifest(root, 3)

    monkeypatch.setattr(reader_lock, "read_version_manifest", read_late)
    with Index.open(root) as index:
        assert index.version == 5
    with pytest.raises(FileNotFoundError, match="no version 3"):
        Index.open(root, 3)


def test_version_is_kept_while_it_is_exported(root, tmp_path, monkeypatch):
    kept_by_run = []
    monkeypatch.setattr(
        export, "check_objects", lambda root, manifest: kept_by_run.append(collect_garbage(root, keep=1).kept)
    )
    export_index(root, tmp_path / "out", 2)
    assert kept_by_run[0][2] == "open in a reader"


def test_newer_version_can_be_served_after_rollback(root):
    rollback(root, 4)
    assert collect_garbage(root, keep=2).kept == {4: "served", 5: "one of the last 2 that passed", 6: REJECTED}
    assert rollback(root, 5) == manifest_path(root, 5)
    assert read_current(root).version == 5
    assert [(event.event, event.version) for event in read_events(root)][-3:] == [
        ("rolled_back", 4),
        ("garbage_collected", None),
        ("rolled_back", 5),
    ]


def test_tags_name_versions(root):
    add_tag(root, "prod", 2)
    add_tag(root, "prod", 2)
    with pytest.raises(ValueError, match=r"Tag 'prod' names version 2\. Pass --move"):
        add_tag(root, "prod", 3)
    add_tag(root, "prod", 3, move=True)
    assert list_tags(root) == {"prod": 3}
    assert [resolve_version(root, name) for name in ("prod", "3", "v00000003")] == [3, 3, 3]
    with Index.open(root, resolve_version(root, "prod")) as index:
        assert index.version == 3


def test_temporary_files_of_killed_processes_are_ignored_and_deleted(root):
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    )
    (root / "tags").mkdir()
    own_files = [temporary_path(root / "tags/prod.json"), temporary_path(root / "versions/v00000007.json")]
    ended = f"-{int(process.stdout)}."
    temporaries = [path.with_name(path.name.replace(f"-{os.getpid()}.", ended)) for path in own_files]
    for path in temporaries:
        path.write_text("{")
        path.chmod(0o444)
    assert list_tags(root) == {}
    assert collect_garbage(root, dry_run=True).kept
    assert [path.exists() for path in temporaries] == [True, True], "a dry run writes nothing"
    assert collect_garbage(root, keep=9).versions == []
    assert [path.exists() for path in temporaries] == [False, False]
    stale_file = temporary_path(manifest_path(root, 7))
    stale_file.write_text("of an earlier process with this process id")
    stale_file.chmod(0o444)
    publish(root, 8)
    assert (list_versions(root)[-1], stale_file.exists()) == (7, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: add_tag(root, "../x", 1), r"'../x' is not a valid tag"),
        (lambda root: add_tag(root, "3", 1), r"'3' is not a valid tag"),
        (lambda root: add_tag(root, "v1", 1), r"'v1' is not a valid tag: it would be read as a version number"),
        (lambda root: add_tag(root, "", 1), r"'' is not a valid tag"),
        (lambda root: add_tag(root, "prod", 9), r"no version 9.*present: 1, 2, 3, 4, 5, 6"),
        (lambda root: remove_tag(root, "prod"), r"has no tag 'prod'; its tags are: none"),
        (lambda root: resolve_version(root, "v0"), r"'v0' is not a version of .*: versions are counted from 1"),
        (lambda root: resolve_version(root, "prod"), r"'prod' is not a version and not a tag"),
        (lambda root: collect_garbage(root, keep=0), r"keep is 0"),
        (lambda root: rollback(root, 6), r"Version 6 did not pass its gate.*version 5 is still served"),
    ],
)
def test_invalid_request_is_rejected(call, message, root):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(root)


def test_nothing_is_deleted_while_a_manifest_cannot_be_read(root):
    path = manifest_path(root, 1)
    path.chmod(0o644)
    path.write_text(path.read_text()[:-9])
    before = {path for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"v00000001\.json"):
        collect_garbage(root)
    assert {path for path in root.rglob("*") if path.is_file()} == before


def test_incomplete_event_lines_are_ignored(root):
    with open(root / "events.jsonl", "ab") as file:
        file.write(b'\n{"event": "publ')
    publish(root, 8)
    assert [(event.event, event.version) for event in read_events(root)][-2:] == [("rejected", 6), ("published", 7)]

"""Tags and garbage collection: what somebody may still want is spared, the rest goes, and nothing that is named."""

import gc
import platform
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from data.io.files import temporary_path
from index.building.build import build_index
from index.exchange.export import export_index
from index.search.index import Index
from index.versions import reader_lock as hold
from index.versions.events import read_events
from index.versions.folder import list_versions, manifest_path, read_current
from index.versions.garbage import collect_garbage
from index.versions.switch import RejectedError, rollback, verify_version
from index.versions.tags import add_tag, list_tags, remove_tag, resolve_version
from tests.helpers.index_live import named
from tests.helpers.index_publish import CONFIG, publish
from tests.helpers.index_world import make


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    """Five versions that passed and a sixth that was refused."""
    root = tmp_path_factory.mktemp("five")
    for seed in range(1, 6):
        publish(root, seed)
    with pytest.raises(RejectedError):
        build_index(CONFIG, *make(6, images=60), root, gate=lambda candidate, served: {"passed": False})
    return root


@pytest.fixture
def root(five, tmp_path) -> Path:
    return shutil.copytree(five, tmp_path / "index")


HOLDING = """
import sys, time
from index.search.index import Index
index = Index.open(sys.argv[1], 3)
print("open", flush=True)
sys.stdin.read()
"""


def test_what_may_be_wanted_is_spared_and_the_rest_goes(root):
    add_tag(root, "keep-me", 1)
    with (
        Index.open(root, 2) as reader,
        subprocess.Popen([sys.executable, "-c", HOLDING, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        other.stdout.readline()
        before = sorted(root.rglob("*"))
        told = collect_garbage(root, keep=1, dry_run=True)
        assert [path for path in sorted(root.rglob("*")) if path.name != ".writer"] == [
            path for path in before if path.name != ".writer"
        ]
        found = collect_garbage(root, keep=1)
        assert found == told
        assert found.kept == {1: "tagged keep-me", 2: "open", 3: "open", 5: "served", 6: "refused since"}
        assert (found.versions, list_versions(root)) == ([4], [1, 2, 3, 5, 6])
        assert found.objects > 0
        assert {path.name for path in root.glob("objects/*/*")} == named(root)
        assert reader.search(make(1, images=60)[1]["image"][:1], 1)[0]
        other.kill()
    assert collect_garbage(root, keep=1).versions == [2, 3], "a reader that is gone, or was killed, holds nothing"
    assert {path.name for path in root.glob("objects/*/*")} == named(root)
    for version in list_versions(root):
        verify_version(root, version)
    remove_tag(root, "keep-me")
    assert collect_garbage(root, keep=1).versions == [1]
    assert collect_garbage(root, keep=1).objects == 0
    publish(root, 7)
    assert list_versions(root) == [5, 6, 7], "no number is given twice"


def test_a_reader_that_was_dropped_holds_nothing(root):
    index = Index.open(root, 1)
    assert collect_garbage(root, keep=1, dry_run=True).kept[1] == "open"
    del index
    gc.collect()
    assert 1 in collect_garbage(root, keep=1).versions


def test_a_closed_index_that_was_filtered_goes_at_once(root):
    index = Index.open(root)
    assert index.count_matching("width = 9") == 60
    index.close()
    seen = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert seen() is None
    finally:
        gc.enable()


def test_what_is_collected_after_current_moved_on_is_not_missed(root, monkeypatch):
    rollback(root, 3)

    def overtaken(at: Path, version: int | None = None, again=hold.read_version_manifest):
        monkeypatch.setattr(hold, "read_manifest", again)
        rollback(root, 5)
        manifest_path(root, 3).unlink()
        return again(at, 3)

    monkeypatch.setattr(hold, "read_manifest", overtaken)
    with Index.open(root) as index:
        assert index.version == 5
    with pytest.raises(FileNotFoundError, match="asked for version 3"):
        Index.open(root, 3)


def test_a_version_that_is_exported_is_not_collected(root, tmp_path, monkeypatch):
    spared = []
    monkeypatch.setattr(
        sys.modules["index.exchange.export"],
        "check_objects",
        lambda at, manifest: spared.append(collect_garbage(at, keep=1).kept),
    )
    export_index(root, tmp_path / "out", 2)
    assert spared[0][2] == "open"


def test_a_version_that_was_rolled_back_from_can_be_served_again(root):
    rollback(root, 4)
    assert collect_garbage(root, keep=2).kept == {4: "served", 5: "one of the last 2", 6: "refused since"}
    assert rollback(root, 5) == manifest_path(root, 5)
    assert read_current(root)["version"] == 5
    assert [(e["event"], e["version"]) for e in read_events(root)][-3:] == [
        ("rolled back", 4),
        ("collected", None),
        ("rolled back", 5),
    ]


def test_tags_name_versions(root):
    add_tag(root, "prod", 2)
    add_tag(root, "prod", 2)
    with pytest.raises(ValueError, match="tag 'prod' names version 2: move it"):
        add_tag(root, "prod", 3)
    add_tag(root, "prod", 3, move=True)
    assert (
        list_tags(root),
        resolve_version(root, "prod"),
        resolve_version(root, "3"),
        resolve_version(root, "v00000003"),
    ) == ({"prod": 3}, 3, 3, 3)
    with Index.open(root, resolve_version(root, "prod")) as index:
        assert index.version == 3


def test_halves_that_killed_processes_left_are_passed_over_and_swept(root):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    name = f"{platform.node()}-{int(gone.stdout)}.tmp.json"
    (root / "tags").mkdir()
    halves = [root / "tags" / f".prod.{name}", root / "versions" / f".v00000007.{name}"]
    for path in halves:
        path.write_text("{")
        path.chmod(0o444)
    assert list_tags(root) == {}
    assert collect_garbage(root, dry_run=True).kept
    assert [path.exists() for path in halves] == [False, False]
    own = temporary_path(manifest_path(root, 7))
    own.write_text("of a process of this number")
    own.chmod(0o444)
    publish(root, 8)
    assert (list_versions(root)[-1], own.exists()) == (7, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: add_tag(root, "../x", 1), r"'../x' cannot be a tag"),
        (lambda root: add_tag(root, "3", 1), r"'3' cannot be a tag"),
        (lambda root: add_tag(root, "v1", 1), r"'v1' cannot be a tag: it would be read as the number of a version"),
        (lambda root: add_tag(root, "", 1), r"'' cannot be a tag"),
        (lambda root: add_tag(root, "prod", 9), r"asked for version 9.*present: 1, 2, 3, 4, 5, 6"),
        (lambda root: remove_tag(root, "prod"), r"no tag 'prod' in .*; there are none"),
        (lambda root: resolve_version(root, "v0"), r"'v0' is no version in .*: they are counted from 1"),
        (lambda root: resolve_version(root, "prod"), r"'prod' is no version and no tag"),
        (lambda root: collect_garbage(root, keep=0), r"keep is 0"),
        (lambda root: rollback(root, 6), r"version 6 did not pass its gate.*version 5 is served as before"),
    ],
)
def test_what_cannot_be_is_refused(call, message, root):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(root)


def test_nothing_is_collected_while_a_manifest_cannot_be_read(root):
    path = manifest_path(root, 1)
    path.chmod(0o644)
    path.write_text(path.read_text()[:-9])
    before = {path for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"v00000001\.json"):
        collect_garbage(root)
    assert {path for path in root.rglob("*") if path.is_file()} == before


def test_half_lines_of_events_are_passed_over(root):
    with open(root / "events.jsonl", "ab") as file:
        file.write(b'\n{"event": "publ')
    publish(root, 8)
    assert [(e["event"], e["version"]) for e in read_events(root)][-2:] == [("refused", 6), ("published", 7)]

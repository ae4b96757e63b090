"""Imports and exports that were killed, came in parts, or are larger than memory."""

import tracemalloc

import pytest

from data.config import ImportConfig
from data.exchange.region_export import MARKER, export_regions
from data.exchange.region_import import import_regions
from data.formats.catalogue import FORMATS
from data.io.digests import sha256_file
from data.store.store import Store
from tests.helpers.region_files import fill, line, same, some, target

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("data.io.files.fsync_path", lambda path: None)


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_interrupted_import_is_resumed_to_the_same_store(tmp_path, stop_after):
    content = some(11)
    export_regions(fill(tmp_path / "a", content), tmp_path / "x.tsv", "lxmert-tsv")
    config = ImportConfig(sources=(tmp_path / "x.tsv",), images_per_shard=3)
    straight = import_regions(config, tmp_path / "straight")
    assert straight.num_imported == 11
    first = import_regions(config, tmp_path / "killed", stop_after=stop_after)
    before = {path: path.stat().st_mtime_ns for path in first.folder.glob("*.h5")}
    assert len(before) == stop_after
    made = import_regions(config, tmp_path / "killed")
    assert (made.num_imported, made.num_unchanged) == (11 - 3 * stop_after, 3 * stop_after)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items()), (
        "finished files must not be written again"
    )
    for path in straight.folder.glob("*.h5"):
        assert sha256_file(path) == sha256_file(made.folder / path.name)
    same(Store(made.folder), content, set(FORMATS["lxmert-tsv"].fields))
    manifest = (made.folder / "manifest.json").read_bytes()
    assert manifest == (straight.folder / "manifest.json").read_bytes()


def test_second_file_extends_the_store_and_changed_records_replace_old_ones(tmp_path):
    content = some(6)
    for number, part in enumerate((list(content)[:4], list(content)[4:])):
        folder = fill(tmp_path / f"{number}", {name: content[name] for name in part})
        export_regions(folder, tmp_path / f"{number}.tsv", "lxmert-tsv")
    one, two = (ImportConfig(sources=(tmp_path / f"{n}.tsv",), name="butd") for n in (0, 1))
    store = Store(import_regions(one, tmp_path / "s").folder)
    assert import_regions(two, tmp_path / "s").folder == store.folder
    same(Store(store.folder), content, {"boxes", "size"})
    content["7"]["features"][0, 0] = 99
    export_regions(fill(tmp_path / "2", {"7": content["7"]}), tmp_path / "0.tsv", "lxmert-tsv", force=True)
    assert import_regions(one, tmp_path / "s").num_imported == 1
    same(Store(store.folder), content, {"boxes", "size"})
    half = import_regions(one.model_copy(update={"float16": True}), tmp_path / "s").folder
    assert half != store.folder
    assert Store(half).read("features", ["7"]).dtype == "float16"


@pytest.mark.parametrize("name", ["", "butd"])
def test_fixed_records_leave_the_invalid_items_and_those_of_other_files_stay(name, tmp_path):
    train, val = tmp_path / "train.tsv", tmp_path / "val.tsv"
    val.write_text("\r\n".join([line("c"), line("bad", n="7")]))
    for content, left in ((line("x", n="7"), ["x (train.tsv line 2)"]), (line("x"), [])):
        train.write_text("\r\n".join([line("a"), content]))
        made = import_regions(ImportConfig(sources=(train,), name=name), tmp_path)
        if name:
            import_regions(ImportConfig(sources=(val,), name=name), tmp_path)
            left = [*left, "bad (val.tsv line 2)"]
        assert sorted(Store(made.folder).invalid_items) == sorted(left)
    assert "x" in Store(made.folder)


def peak(work, *arguments) -> int:
    """Bytes that numpy and Python hold at most meanwhile (HDF5 keeps its own caches, of 1 MB a dataset)."""
    tracemalloc.start()
    work(*arguments)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_memory_of_import_and_export_does_not_grow_with_the_file(name, tmp_path):
    out, back = {}, {}
    for count in (4, 20):
        folder = fill(tmp_path / f"a{count}", some(count, rows=lambda i: 10, dim=6000))  # 240 kB an image
        (root := tmp_path / f"{count}").mkdir()
        path = target(root, name)
        out[count] = peak(export_regions, folder, path, name)
        config = ImportConfig(sources=(path,), sizes="boxes", images_per_shard=2)
        back[count] = peak(import_regions, config, root / "s")
    grown = 16 * 240_000  # what a program that keeps the images would add; noise of a process of tests is below 2 MB
    assert out[20] - out[4] < grown / 1.5
    assert back[20] - back[4] < grown / 1.5


class Stop(Exception):
    pass


def stopping(after: int):
    steps = iter(range(10**6))

    def progress(_: int) -> None:
        if next(steps) == after:
            raise Stop

    return progress


@pytest.mark.parametrize("name", FORMATS)
def test_interrupted_export_leaves_no_partial_file_and_is_resumed(name, tmp_path):
    folder = fill(tmp_path / "a", some(6, rows=lambda i: 2))
    path = target(tmp_path, name)
    with pytest.raises(Stop):
        export_regions(folder, path, name, progress=stopping(2))
    if FORMATS[name].is_folder:
        before = {p: p.stat().st_mtime_ns for p in path.rglob("*.np[yz]")}
        assert len(before) % 3 == 0
        assert before
        export_regions(folder, path, name)
        assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items()), (
            "finished files must not be written again"
        )
        other = fill(tmp_path / "b", some(6, seed=1, rows=lambda i: 3))
        with pytest.raises(FileExistsError, match="or --force to overwrite"):
            export_regions(other, path, name)
        with pytest.raises(Stop):
            export_regions(other, path, name, force=True, progress=stopping(2))
        assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items()), "the old files stay"
        with pytest.raises(FileExistsError, match="or --force to overwrite"):
            export_regions(other, path, name)
    else:
        assert not path.exists()
        export_regions(folder, path, name)
        with pytest.raises(FileExistsError, match="or --force to overwrite"):
            export_regions(folder, path, name)
        turned = fill(tmp_path / "b", dict(reversed(some(6, rows=lambda i: 2).items())))
        files = [path, *FORMATS[name].sidecar_files(path)]
        before = [sha256_file(file) for file in files]
        with pytest.raises(Stop):
            export_regions(turned, path, name, force=True, progress=stopping(2))
        assert [sha256_file(file) for file in files] == before, "the old rows and their ids stay together"
        export_regions(turned, path, name, force=True)
    export_regions(folder, path, name, force=True)
    assert import_regions(ImportConfig(sources=(path,), sizes="boxes"), tmp_path / "s").num_imported == 6
    assert not [p for p in tmp_path.rglob("*.tmp*") if p.name != MARKER]

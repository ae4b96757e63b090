"""`--force` replaces old files only by complete new ones: after a full disk or a kill the old ones are there."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from data.exchange.region_export import MARKER, STAGED, export_regions
from data.formats.catalogue import FORMATS
from data.io import atomic_write_together, restore_together, sha256_file
from tests.helpers.region_files import fill, some, target


def snapshot(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may be larger than `size` bytes: it stands for a full disk, and needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_full_disk_leaves_the_old_files_and_nothing_else(name, force, tmp_path):
    small = fill(tmp_path / "a", some(2, rows=lambda i: 2, dim=4))
    large = fill(tmp_path / "b", some(6, seed=1, rows=lambda i: 2, dim=30000))
    (folder := tmp_path / "out").mkdir()
    path = target(folder, name)
    if force:
        export_regions(small, path, name)
        (path.parent / "notes.txt").write_text("mine")
    before = snapshot(folder)
    with file_size_limit(40 << 10), pytest.raises(OSError, match="File too large") as error:
        export_regions(large, path, name, force=force)
    assert error.value.filename
    assert not isinstance(error.value.__cause__, RuntimeError)
    if force or not FORMATS[name].is_folder:  # a new folder of files is continued by the next export
        assert snapshot(folder) == before
    count = export_regions(large, path, name, force=force)
    assert count == 6
    assert {key for key in before if key.endswith("notes.txt")} <= snapshot(folder).keys()
    assert not [p for p in folder.rglob(".*") if p.name != MARKER]


@pytest.mark.parametrize("name", FORMATS)
def test_export_never_goes_into_the_store_or_over_a_file_or_folder_of_another_kind(name, tmp_path):
    store = fill(tmp_path / "a", some(2, rows=lambda i: 2))
    (tmp_path / "link").symlink_to(store)
    kind, folder = FORMATS[name], tmp_path / f"x{FORMATS[name].suffix}"
    (folder / "y").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    for path in (store / "manifest.json", target(store, name), target(tmp_path / "link", name), store):
        with pytest.raises(ValueError, match="is in the store"):
            export_regions(store, path, name, force=True)
    with pytest.raises((FileExistsError, ValueError), match=r"is a folder|is a file|is not the path|does not end in"):
        export_regions(store, tmp_path / "file" if kind.is_folder else folder, name, force=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.is_folder])
def test_forced_export_to_a_folder_never_follows_links_out_of_it(name, tmp_path):
    store = fill(tmp_path / "a", {"x/1": next(iter(some(1).values()))})
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    export_regions(fill(tmp_path / "b", some(2)), out, name)
    for folder in {p.parent for p in out.rglob("*.np[yz]")}:
        (folder / "x").symlink_to(outside)
    before = snapshot(out)
    with pytest.raises(ValueError, match=r"would leave .* through a link"):
        export_regions(store, out, name, force=True)
    assert (snapshot(out), list(outside.iterdir()), (out / STAGED).exists()) == (before, [], False)


NAMES = ("x_ids.txt", "x_boxes.npy", "x_ims.npy")


def write_set(folder: Path, text: str) -> None:
    with atomic_write_together([folder / name for name in NAMES]) as temporaries:
        for temporary in temporaries:
            temporary.write_text(text)


def read_set(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


def run_killed(folder: Path, call: str, number: int) -> bool:
    """Write a new set in a child that is killed before its n-th call of a function; return whether it was."""
    process = os.fork()
    if not process:
        original, calls = getattr(os, call), iter(range(10**6))

        def counted(*arguments, **options):
            if next(calls) == number:
                os._exit(9)
            return original(*arguments, **options)

        setattr(os, call, counted)
        write_set(folder, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


@pytest.mark.parametrize("old", [NAMES, NAMES[:1], NAMES[1:], ()], ids=len)
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_kill_at_any_moment_never_mixes_two_sets_and_is_undone(call, old, tmp_path):
    for number in range(99):
        (folder := tmp_path / str(number)).mkdir()
        for name in old:
            (folder / name).write_text("old")
        was_killed = run_killed(folder, call, number)
        content = read_set(folder)
        if NAMES[-1] in content:  # readers open this one
            wanted = content[NAMES[-1]]
            assert set(content.values()) == {wanted}, f"a reader would combine files of two sets: {content}"
        restore_together([folder / name for name in NAMES])
        content = read_set(folder)
        assert content in (dict.fromkeys(old, "old"), dict.fromkeys(NAMES, "new"))
        write_set(folder, "third")
        assert read_set(folder) == dict.fromkeys(NAMES, "third")
        left = [path.name for path in folder.iterdir() if path.name not in NAMES]
        assert all(".tmp" in name for name in left), left
        if not was_killed:
            break
    assert number > 2, "the function was called"


@pytest.mark.parametrize("number", range(8))
def test_error_while_renaming_is_undone_at_once(number, tmp_path, monkeypatch):
    write_set(tmp_path, "old")
    replace, calls = os.replace, iter(range(10**6))

    def failing(*arguments):
        if next(calls) == number:
            raise OSError(5, "Input/output error")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", failing)
    try:
        write_set(tmp_path, "new")
    except OSError:
        assert read_set(tmp_path) == dict.fromkeys(NAMES, "old")
    else:
        assert read_set(tmp_path) == dict.fromkeys(NAMES, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_exported_hdf5_is_the_same_through_a_file_that_keeps_errors(tmp_path):
    """The rows that h5py reads back are those of the store, bit for bit."""
    h5py = pytest.importorskip("h5py")
    content = some(5, rows=lambda i: 3)
    export_regions(fill(tmp_path / "a", content), tmp_path / "x.hdf5", "vqa-h5")
    with h5py.File(tmp_path / "x.hdf5") as file:
        features = file["image_features"][:]
    np.testing.assert_array_equal(features, np.stack([row["features"] for row in content.values()]))

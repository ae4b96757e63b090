"""Compaction deletes shards of the store only, and asks before it deletes the rows of many items."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.io import sha256_file
from data.manifest import read_store_manifest
from data.store import Store, compact_store, find_problems, unlist_damaged_shards
from pipeline.cli.app import build_app
from tests.helpers.stores import check, extract, items

pytestmark = pytest.mark.slow
FOREIGN = ("shard-backup.h5", "shard-2024.h5", "shard-0123456789AB.h5", "shard-0123456789abc.h5", "thesis.h5", "a.txt")


def snapshot(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.is_file()}


def run(*arguments: object):
    return CliRunner().invoke(build_app(), ["store", "compact", *map(str, arguments)])


def test_files_that_are_not_shards_of_the_store_are_kept_and_named(tmp_path):
    extract(tmp_path, items(22))
    folder = extract(tmp_path, items(20))
    for name in FOREIGN:
        (folder / name).write_text("mine")
    unlisted = folder / "shard-0123456789ab.h5"
    unlisted.write_text("half a shard")
    result = run(folder, "--items-per-shard", 10)
    assert result.exit_code == 0, result.output
    assert all((folder / name).read_text() == "mine" for name in FOREIGN)
    assert not unlisted.exists()
    for name in FOREIGN[:4]:
        assert f"kept: {name} is not a shard of the store" in result.output
    check(folder, items(20))


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_many_removed_items_are_not_deleted_unasked(arguments, tmp_path):
    extract(tmp_path, items(22))
    folder = extract(tmp_path, items(9))  # the disk with the other images was not mounted
    before = snapshot(folder)
    result = run(folder, *arguments)
    assert result.exit_code == 1
    assert "removed items: 13 (caption 10, caption 11" in result.output
    assert "13 of 22 items are no longer in the dataset, more than 20%" in str(result.exception)
    assert snapshot(folder) == before
    extract(tmp_path, items(22))
    check(folder, items(22))
    extract(tmp_path, items(9))
    assert run(folder, "--force").exit_code == 0
    check(folder, items(9))


def test_dry_run_changes_nothing(tmp_path):
    extract(tmp_path, items(22))
    folder = extract(tmp_path, items(20))
    before = snapshot(folder)
    result = run(folder, "--dry-run")
    assert (result.exit_code, result.output) == (0, "removed items: 2 (caption 20, caption 21)\n")
    assert snapshot(folder) == before


@pytest.mark.parametrize("content", [{}, {"manifest.json": '{"name": "npm"}'}, {".writer": "my novel"}])
def test_folder_that_is_not_a_store_stays_byte_for_byte(content, tmp_path):
    for name, text in (content | {"shard-0123456789ab.h5": "mine"}).items():
        (tmp_path / name).write_text(text)
    before = snapshot(tmp_path)
    for compact in (lambda: compact_store(tmp_path, 10), lambda: unlist_damaged_shards(tmp_path, [])):
        with pytest.raises((FileNotFoundError, ValueError), match=r"No store at|has store schema"):
            compact()
    assert snapshot(tmp_path) == before


def test_shard_that_is_damaged_twice_is_kept_twice(tmp_path):
    folder = extract(tmp_path, items(4))
    (entry,) = read_store_manifest(folder).shards
    for number in range(3):
        (folder / entry.file).write_text(f"damaged {number}")
        unlist_damaged_shards(folder, find_problems(folder, read_store_manifest(folder)))
        assert len(Store(folder)) == 0
        extract(tmp_path, items(4))
    kept = sorted(path.read_text() for path in folder.glob("*.damaged*"))
    assert kept == ["damaged 0", "damaged 1", "damaged 2"]

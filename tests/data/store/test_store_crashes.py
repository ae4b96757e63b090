"""Kills, full disks, concurrent writers, flipped bits and dataset changes lose no data and leave no partial file."""

import errno
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.io.digests import sha256_file
from data.io.locks import manifest_lock, write_lock
from data.manifest.schema import Item
from data.store import shard_file
from data.store.compact import compact_store
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards
from tests.helpers.repeats import WRITER_KILLS
from tests.helpers.stores import FORK, SHARD, check, content, crash, extract, items, open_store

pytestmark = pytest.mark.slow

MIN_KILLS = 15  # the first round has at most 13


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run_and_kill(root: Path, targets: list[Item], log: Path, seconds: float | None) -> bool:
    """Extract in a child process, kill it after `seconds`, and return whether it was still alive."""
    child = FORK.Process(target=extract, args=(root, targets, log, 0.002))
    child.start()
    child.join(seconds)
    killed = child.is_alive()
    if killed:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert killed or child.exitcode == 0
    return killed


def test_extraction_survives_sigkills(tmp_path):
    """From the second round on, the dataset changes between runs: one item is added, one changed, one removed."""
    began = time.monotonic()
    run_and_kill(tmp_path / "timed", items(40), tmp_path / "timed.log", None)
    whole = time.monotonic() - began
    rng, kills, rounds = np.random.default_rng(0), 0, 0
    while kills < max(WRITER_KILLS, MIN_KILLS):
        root, rounds = tmp_path / f"round {rounds}", rounds + 1
        targets, done, repeated = items(40), set(), 0
        for run in range(14):
            seconds = rng.uniform(0, whole / 2) if run < 13 else None
            log = tmp_path / f"log {rounds} {run}"
            killed = run_and_kill(root, targets, log, seconds)
            kills += killed
            worked = lines(log)
            assert len(worked) == len(set(worked)), "one run extracts each item once"
            repeated += len(done & set(worked))
            assert repeated <= SHARD * run, "a kill must cost at most one shard"
            done |= set(worked)
            with Store(open_store(root)) as store:
                assert store.verify() == []
                assert len(store) in (0, 40), "the manifest lists all items or none"
            if not killed:
                break
            if rounds > 1 and run % 4 == 2:
                changed = Item(targets[7].id, f"{run % 10}" * 64)
                targets = [Item(f"new {run}", "0" * 64), *targets[:7], changed, *targets[8:-1]]
        check(open_store(root), targets)
        if rounds == 1:
            straight = extract(tmp_path / "straight", targets)
            assert hashes(open_store(root)) == hashes(straight)
    assert rounds >= 2, "the dataset changes from the second round on"


def hashes(folder: Path) -> dict[str, str]:
    """Map the files of a store to their hashes, without the one that names the last process that wrote."""
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.name != ".writer"}


CHANGES = {
    "one more in front": lambda targets: [Item("new", "0" * 64), *targets],
    "one away": lambda targets: targets[1:],
    "one changed": lambda targets: [Item(targets[0].id, "b" * 64), *targets[1:]],
    "another order": lambda targets: targets[::-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_finished_unlisted_shards_are_adopted_after_dataset_changes(tmp_path, change):
    log = tmp_path / "log"
    crash(tmp_path, items(12), 2, log)
    assert len(lines(log)) == 8
    targets = CHANGES[change](items(12))
    fresh = len(set(targets) - set(items(8)))
    assert all(plan.existing_file for plan in plan_shards(open_store(tmp_path), items(8), SHARD))
    folder = extract(tmp_path, targets, log)
    assert len(lines(log)) == 8 + fresh, "finished shards must not be extracted again"
    check(folder, targets)


def test_finished_shard_with_old_content_of_one_item_is_adopted_below_its_new_content(tmp_path):
    """The new content is in a shard that begins earlier in the dataset than the one with the old content."""
    log, first = tmp_path / "log", items(3 * SHARD)
    crash(tmp_path, first, 2, log)
    second = [Item("new", "0" * 64), *first[:7], Item(first[7].id, "b" * 64), *first[8:]]
    crash(tmp_path, second, 1, log)
    finished = lines(log)
    folder = extract(tmp_path, second, log)
    worked = lines(log)
    assert worked[: len(finished)] == finished
    assert len(worked) == len(set(worked)) == len({*first, *second}), "finished shards must not be extracted again"
    check(folder, second)


def test_adopted_shard_never_overrides_newer_content(tmp_path):
    """Two interrupted runs left contradictory shards, and the store lists current content."""
    a, b, a2, b2 = Item("a", "0" * 64), Item("b", "0" * 64), Item("a", "1" * 64), Item("b", "1" * 64)
    folder = open_store(tmp_path)
    for held in ((a, b2), (a2, b)):
        plan = plan_shards(open_store(tmp_path / "other"), held, SHARD)[0]
        write_shard(folder, plan, [content(item) for item in plan.items])
    log = tmp_path / "log"
    for targets in ([a2, b2], [a, b], [a2, b2], [a, b2, Item("c", "0" * 64)]):
        extract(tmp_path, targets, log)
        check(folder, targets)


def test_damaged_unlisted_shard_is_extracted_again(tmp_path):
    log = tmp_path / "log"
    folder = crash(tmp_path, items(12), 2, log)
    first, second = sorted(folder.glob("shard-*.h5"))
    os.truncate(first, first.stat().st_size // 2)
    data = bytearray(second.read_bytes())
    with h5py.File(second) as file:
        data[file["features"].id.get_offset()] ^= 1
    second.write_bytes(data)
    extract(tmp_path, items(12), log)
    assert len(lines(log)) == 8 + 12
    check(folder, items(12))


def test_damaged_unlisted_shard_is_never_opened_by_hdf5(tmp_path, monkeypatch):
    """HDF5 can loop forever on a flipped bit: neither the next run nor a compaction may open the file."""
    folder, rng = crash(tmp_path, items(2 * SHARD), 1), np.random.default_rng(0)
    path = next(folder.glob("*.h5"))
    good, plan = path.read_bytes(), plan_shards(open_store(tmp_path / "other"), items(SHARD), SHARD)[0]
    assert plan_shards(folder, items(SHARD), SHARD)[0].existing_file == path.name
    with monkeypatch.context() as patched:
        patched.setattr(h5py, "File", lambda *_, **__: pytest.fail("HDF5 opened a damaged file"))
        for position in map(int, rng.integers(0, len(good), 200)):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1 << rng.integers(8)]) + good[position + 1 :])
            assert plan_shards(folder, items(SHARD), SHARD) == [plan], f"byte {position}"
        compact_store(folder, SHARD)
    assert not path.exists(), "a damaged unlisted shard is deleted"
    path.write_bytes(good)
    with monkeypatch.context() as patched:
        patched.setattr(shard_file, "open", _too_many_files, raising=False)
        compact_store(folder, SHARD)
    assert path.exists(), "a transient I/O error must not delete finished work"
    check(extract(tmp_path, items(SHARD)), items(SHARD))


def _too_many_files(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_removed_items_disappear_and_return_without_extraction(tmp_path):
    log = tmp_path / "log"
    everything, fewer = items(10), items(10)[2:]
    folder = open_store(tmp_path)
    extract(tmp_path, everything, log)
    old = Store(folder)
    extract(tmp_path, fewer, log)
    check(folder, fewer)
    with Store(folder) as store:
        assert "caption 0" not in store
        with pytest.raises(ValueError, match="removed from the dataset"):
            store.read("features", ["caption 0"])
    assert len(old) == 10, "an open store does not change"
    before = (folder / "manifest.json").read_bytes()
    extract(tmp_path, fewer, log)
    assert (folder / "manifest.json").read_bytes() == before
    extract(tmp_path, everything, log)
    check(folder, everything)
    assert len(lines(log)) == 10
    extract(tmp_path, items(10, "b"), log)
    check(folder, items(10, "b"))
    assert len(lines(log)) == 20


def test_second_writer_gets_the_name_of_the_first_and_killed_writers_hold_no_lock(tmp_path):
    folder, ready = open_store(tmp_path), FORK.Event()

    def hold():
        with write_lock(folder):
            ready.set()
            time.sleep(60)

    child = FORK.Process(target=hold)
    child.start()
    ready.wait(10)
    with pytest.raises(ValueError, match=rf"process {child.pid} .* on .* since 20.*Wait until it ends"):
        extract(tmp_path, items(3))
    assert not list(folder.glob("*.h5"))
    with Store(folder) as store:
        assert len(store) == 0, "readers do not wait for a writer"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    check(extract(tmp_path, items(3)), items(3))


def test_concurrent_creation_of_a_store_keeps_listed_shards(tmp_path, monkeypatch):
    real, met = Path.exists, []

    def exists(path):
        if path.name == "manifest.json" and not met:
            met.append(path)
            extract(tmp_path, items(3))  # another process, between the check and the write
            return False
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    check(open_store(tmp_path), items(3))


def test_finished_store_needs_no_write_lock(tmp_path):
    folder = extract(tmp_path, items(3))
    written = lambda: {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".writer"}  # noqa: E731
    before = written()
    with write_lock(folder):
        assert extract(tmp_path, items(3)) == folder, "needs no lock, because there is nothing to write"
    assert written() == before


def _with_small_files(root: Path, targets: list[Item], limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        extract(root, targets)
    except OSError as error:
        os._exit(7 if error.errno == errno.EFBIG and "shard-" in str(error) and "too large" in str(error) else 8)
    os._exit(0)


@pytest.mark.parametrize("limit", [0, 900, 3_000, 5_000])
def test_full_disk_names_the_file_leaves_no_partial_file_and_is_resumed(tmp_path, limit):
    targets = items(8)
    folder = open_store(tmp_path)
    child = FORK.Process(target=_with_small_files, args=(tmp_path, targets, limit))
    child.start()
    child.join(30)
    assert child.exitcode in ((7,) if limit else (7, 8)), "7: the error has file and reason, and HDF5 did not crash"
    assert not list(folder.glob(".*.tmp*")), "a temporary file remains"
    with Store(folder) as store:
        assert len(store) == 0
    check(extract(tmp_path, targets), targets)


def test_full_file_system_keeps_finished_shards(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            extract(mount, items(60))
        assert caught.value.errno == errno.ENOSPC
        folder = open_store(mount)
        assert not list(folder.glob(".*.tmp*"))
        done = len(list(folder.glob("*.h5")))
        assert done >= 2, "finished shards are kept"
        subprocess.run(["mount", "-o", "remount,size=4m", str(mount)], check=True)
        log = tmp_path / "log"
        check(extract(mount, items(60), log), items(60))
        assert len(lines(log)) == 60 - SHARD * done
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_verify_finds_every_flipped_bit_and_names_the_item_of_rows(tmp_path):
    folder = extract(tmp_path, items(SHARD))
    path = next(folder.glob("*.h5"))
    good, rng = path.read_bytes(), np.random.default_rng(0)
    store = Store(folder)
    with h5py.File(path) as file:
        start, row = file["features"].id.get_offset(), 12
        ends = file["offsets"][1:]
    places = [*rng.integers(0, len(good), 150), *rng.integers(start, start + ends[-1] * row, 50)]
    for position in map(int, places):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        problems = store.verify()
        assert problems, f"bit of byte {position}"
        assert all(path.name in problem for problem in problems)
        if start <= position < start + ends[-1] * row:
            item = int(np.searchsorted(ends, (position - start) // row, side="right"))
            assert problems == [f"{path}: the rows of caption {item} do not have the checksum they were written with"]
    path.write_bytes(good)
    assert store.verify() == []


BAD_MANIFESTS = {
    "a file of another folder": lambda m: m["shards"][0].update(file="../../shard-0.h5"),
    "an unknown kind": lambda m: m.update(kind="pictures"),
    "no shards": lambda m: m.pop("shards"),
    "shards as text": lambda m: m.update(shards=["shard-0.h5"]),
    "no reason": lambda m: m.update(invalid_items=[{"id": "a", "hash": "b"}]),
    "no sizes": lambda m: m["shards"][0].pop("bytes"),
    "dtype": lambda m: m.update(dtype="object"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_invalid_manifest_raises_with_the_fix(tmp_path, kind):
    folder = extract(tmp_path, items(3))
    manifest = json.loads((folder / "manifest.json").read_text())
    BAD_MANIFESTS[kind](manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"not a store's manifest.*Restore the file, or delete"):
        Store(folder)


def _commit_after(started, folder: Path, name: str) -> None:
    started.wait()
    commit(folder, [name])


def test_concurrent_commits_keep_all_shards(tmp_path):
    folder, started = open_store(tmp_path), FORK.Event()
    plans = plan_shards(folder, items(8), SHARD)
    files = [write_shard(folder, plan, [content(item) for item in plan.items]) for plan in plans]
    children = [FORK.Process(target=_commit_after, args=(started, folder, name)) for name in files]
    for child in children:  # forked before the lock is taken: it would go over to them
        child.start()
    with manifest_lock(folder):
        started.set()
        time.sleep(0.1)
        assert len(Store(folder)) == 0
    for child in children:
        child.join(10)
    check(folder, items(8))

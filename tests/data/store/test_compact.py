"""Compaction: the same rows in fewer files after any kill and with open readers; the commands of `tern store`."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.io.digests import sha256_file
from data.io.locks import write_lock
from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.manifest.schema import ShardPlan as Plan
from data.store import compact as module
from data.store.compact import compact_store
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit
from pipeline.cli.app import build_app
from tests.helpers.stores import FORK, check, crash, extract, items, spoil

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for the process's end."""


def wasteful(root: Path) -> tuple[Path, list[Item]]:
    """A store of small shards in which items were changed and others dropped; and what it lists."""
    extract(root, items(22))
    now = [*items(5, "b"), *items(22)[5:19]]
    return extract(root, now), now


def rows(folder: Path) -> tuple[list[str], list[bytes]]:
    with Store(folder) as store:
        return store.ids, [store.read(field, store.ids).tobytes() for field in store.fields]


def shards(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.glob("*.h5")}


def test_compaction_keeps_rows_and_order(tmp_path):
    folder, now = wasteful(tmp_path)
    before, old = rows(folder), Store(folder)
    assert len(shards(folder)) == 8
    manifest = compact_store(folder, 10)
    check(folder, now)
    assert rows(folder) == before
    assert len(shards(folder)) == len(manifest.shards) == 2
    assert manifest.removed_ids == ()
    assert not any(name in shards(folder) for name in manifest.replaced_files)
    np.testing.assert_array_equal(old.read("features", old.ids), Store(folder).read("features", old.ids))
    stamp = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".writer"}
    compact_store(folder, 10)
    assert all(path.stat().st_mtime_ns == value for path, value in stamp.items()), "a compact store is not changed"
    extract(tmp_path, now)
    log = tmp_path / "log"
    check(extract(tmp_path, [*now, Item("caption 20", "0" * 64)], log), [*now, Item("caption 20", "0" * 64)])
    assert len(log.read_text().splitlines()) == 1, "what was dropped is really gone"


def test_compaction_loses_nothing_after_a_crash_at_any_rename_or_removal(tmp_path, monkeypatch):
    expected, step = rows(wasteful(tmp_path / "twin")[0]), 0
    real = os.replace, Path.unlink
    while True:
        folder, now = wasteful(tmp_path / f"{step}")
        left = [step]

        def count(function, left=left):
            def counted(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return function(*args, **kwargs)

            return counted

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", count(real[0]))
            patched.setattr(Path, "unlink", count(real[1]))
            try:
                compact_store(folder, 10)
                finished = True
            except Killed:
                finished = False
        check(folder, now)
        assert rows(folder) == expected
        compact_store(folder, 10)
        check(folder, now)
        assert len(shards(folder)) == 2, f"rubbish after a crash at step {step}"
        if finished:
            break
        step += 1
    assert step >= 10


def test_compaction_loses_nothing_after_a_sigkill(tmp_path):
    rng = np.random.default_rng(0)
    folder, now = wasteful(tmp_path)
    for size in (10, 3, 7, 2, 9, 4, 10):
        child = FORK.Process(target=compact_store, args=(folder, size))
        child.start()
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        check(folder, now)
    compact_store(folder, 10)
    check(folder, now)
    assert len(shards(folder)) == 2


def test_compaction_keeps_finished_shards_of_an_interrupted_extraction(tmp_path):
    folder, now = wasteful(tmp_path)
    more, log = [*now, *items(12, name="new")], tmp_path / "log"
    crash(tmp_path, more, 2, log)
    compact_store(folder, 10)
    check(folder, now)
    check(extract(tmp_path, more, log), more)
    assert len(log.read_text().splitlines()) == 12


def test_compaction_raises_for_damaged_rows_and_for_another_writer(tmp_path):
    folder, _ = wasteful(tmp_path)
    with write_lock(folder), pytest.raises(ValueError, match="is being written by process"):
        compact_store(folder, 10)
    victim = sorted(folder.glob("*.h5"))[0]
    spoil(victim, 0)
    before = shards(folder)
    with pytest.raises(ValueError, match=r"shard-.*the rows of caption \d+ do not have.*Nothing was changed"):
        compact_store(folder, 10)
    assert shards(folder).items() >= before.items()
    with pytest.raises(ValueError, match="must be at least 1"):
        compact_store(folder, 0)


def test_reader_that_opens_during_a_compaction_finds_the_new_shards(tmp_path, monkeypatch):
    folder, now = wasteful(tmp_path)
    stale = Store(folder).__getstate__()
    real, done = module.read_store_manifest, []

    def read_then_compact(path):
        manifest = real(path)
        if not done:
            done.append(True)
            compact_store(folder, 10)
        return manifest

    monkeypatch.setattr("data.store.store.read_store_manifest", read_then_compact)
    assert sorted(Store(folder).ids) == sorted(item.id for item in now)
    with pytest.raises(
        FileNotFoundError,
        match=r"was compacted: generation \d+ no longer exists, the present one is \d+. Open the store again",
    ):
        Store.__new__(Store).__setstate__(stale)


def run(*args: str):
    return CliRunner().invoke(build_app(), ["store", *map(str, args)])


def test_store_commands_print_facts_damage_and_compaction(tmp_path):
    folder, _ = wasteful(tmp_path)
    invalid = Plan((Item("bad", "c" * 64),))
    commit(folder, [write_shard(folder, invalid, ["it is empty"])])
    out = run("info", folder / "manifest.json").stdout
    for part in ("tokens, generation 3", "19, with ", "6 x float16", "9, ", "bad: it is empty", "19 captions have more",
                 "3 that are no longer in the dataset", "model = test", "including 8 unreferenced items"):  # fmt: skip
        assert part in out, out
    found = run("verify", folder)
    assert (found.exit_code, "27 items in 9 shards are intact" in found.stdout) == (0, True), found.output
    found = run("compact", folder, "--items-per-shard", 10)
    assert "9 shards" in found.stdout
    assert "-> 2 shards" in found.stdout
    assert "already compact: 2 shards" in run("compact", folder, "--items-per-shard", 10).stdout
    assert "bad: it is empty" in run("info", folder).stdout
    first, second = sorted(folder.glob("*.h5"))
    name = spoil(first, 0)
    second.unlink()
    found = run("verify", folder)
    assert found.exit_code == 1
    assert f"{first}: the rows of {name} do not have" in found.stdout
    assert f"{second}: missing; 9 items are lost" in found.stdout or f"{second}: missing; 10 items" in found.stdout
    for command in ("info", "verify", "compact"):
        assert re.search("Examples?: tern store", run(command, "--help").stdout)


def test_unlisted_damage_is_extracted_again_and_unreferenced_damage_is_compacted(tmp_path):
    """Of eight shards, one is missing, one is truncated, one has damaged rows, one has damaged unreferenced rows."""
    folder, now = wasteful(tmp_path)
    listed = [folder / entry.file for entry in Store(folder).manifest.shards]
    missing, cut, spoilt = listed[2:5]
    dead = spoil(listed[0], 0)
    assert dead == "caption 0"
    unread = (
        f"{listed[0]}: the rows of {dead} do not have the checksum they were written with; these rows are unreferenced"
    )
    found = run("verify", folder)
    assert (found.exit_code, unread in found.stdout) == (1, True), found.output
    missing.unlink()
    os.truncate(cut, cut.stat().st_size // 2)
    lost = spoil(spoilt, 0)
    found = run("verify", folder, "--unlist-damaged")
    assert found.exit_code == 0, found.output
    assert "3 shards with " in found.stdout
    with Store(folder) as store:
        assert lost not in store
        assert listed[0].name in {entry.file for entry in store.manifest.shards}
    log = tmp_path / "log"
    extract(tmp_path, now, log)
    assert 0 < len(log.read_text().splitlines()) < len(now), "only damaged shards are extracted again"
    assert [unread in problem for problem in Store(folder).verify()] == [True]
    compact_store(folder, 10)
    check(folder, now)


def test_store_info_shortens_long_recipes(tmp_path):
    folder = open_or_create_store(
        tmp_path, "regions", {"weights": "w" * 300, "classes": [f"thing {i}" for i in range(1600)]}
    )
    out = run("info", folder).stdout
    assert "1,600 names: thing 0, thing 1, thing 2, ..." in out
    assert len(out) < 1200

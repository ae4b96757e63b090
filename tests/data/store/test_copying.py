"""Items whose content a store has under another id are copied: nothing is computed twice, and no row differs."""

from pathlib import Path

import numpy as np
import pytest

from data.manifest.manifest import read_store_manifest
from data.manifest.schema import Item
from data.store.compact import compact_store
from data.store.intact import CopyJob, copy_shard
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import store_update
from tests.helpers.stores import SHARD, content, open_store, spoil

UNREADABLE = "unreadable: Permission denied"


def make_items(text: str) -> list[Item]:
    """Make items from `id=content`, with one letter per content; `?` is a file that cannot be read."""
    pairs = [part.split("=") for part in text.split()]
    return [Item(name, UNREADABLE if letter == "?" else f"{ord(letter):02x}" * 32) for name, letter in pairs]


def rows(content_hash: str) -> dict[str, np.ndarray] | str:
    return "cannot be read" if content_hash == UNREADABLE else content(Item("", content_hash))


def update(root: Path, targets: list[Item], stop_after: int | None = None, invalid: str = "") -> list[str]:
    """Update a store whose rows depend on the content alone; return the ids that were computed."""
    folder, computed = open_store(root), []

    def compute(item: Item) -> dict[str, np.ndarray] | str:
        computed.append(item.id)
        return f"{item.id} is damaged" if item.hash == invalid else rows(item.hash)

    with store_update(folder, targets, SHARD, lambda value: value != UNREADABLE) as plans:
        for number, plan in enumerate(plans):
            if number == stop_after:
                raise KeyboardInterrupt
            if plan.sources:
                copy_shard(CopyJob(folder, plan))
            else:
                write_shard(folder, plan, map(compute, plan.items))
    return computed


def check(root: Path, targets: list[Item]) -> None:
    valid = [item for item in targets if item.hash != UNREADABLE]
    with Store(open_store(root)) as store:
        assert sorted(store.ids) == sorted(item.id for item in valid)
        assert store.content_hashes([item.id for item in valid]) == [item.hash for item in valid]
        for item in valid:
            for field, expected in rows(item.hash).items():
                np.testing.assert_array_equal(np.squeeze(store.read(field, [item.id])), np.squeeze(expected))
        assert store.verify() == []


CASES = {
    "renamed": ("a=A b=B c=C", "a=A z=B c=C", ""),
    "copied": ("a=A b=B", "a=A b=B z=B", ""),
    "moved to the place of another one": ("a=A b=B", "b=A", ""),
    "exchanged names": ("a=A b=B", "a=B b=A", ""),
    "renamed, and the old name has new content": ("a=A b=B", "a=N z=A b=B", "a"),
    "new twice": ("a=A", "a=A x=N y=N", "x"),
    "twice in an empty store": ("", "x=N y=N z=N", "x"),
    "copies in several shards": ("", " ".join(f"i{k}={'ABCDEFG'[k % 7]}" for k in range(21)), "i0 i1 i2 i3 i4 i5 i6"),
    "all renamed": (" ".join(f"i{c}={c}" for c in "ABCDEFGHIJ"), " ".join(f"j{c}={c}" for c in "ABCDEFGHIJ"), ""),
    "as in the issue": (
        "a=A b=B c=C d=D e=E",
        "a=A b=X moved=C d=D n1=1 n2=2 n3=3 n4=4 n5=5",
        "b n1 n2 n3 n4 n5",
    ),
    "unreadable files are not copies": ("a=A", "a=A x=? y=?", "x y"),
    "nothing is new": ("a=A b=A", "a=A b=A", ""),
}


@pytest.mark.parametrize(("before", "after", "computed"), CASES.values(), ids=CASES)
def test_update_computes_each_content_once(tmp_path: Path, before: str, after: str, computed: str) -> None:
    update(tmp_path, make_items(before))
    check(tmp_path, make_items(before))
    assert update(tmp_path, make_items(after)) == computed.split()
    check(tmp_path, make_items(after))
    compact_store(open_store(tmp_path), SHARD)
    check(tmp_path, make_items(after))
    assert update(tmp_path, make_items(after)) == []


def test_content_that_came_back_or_was_replaced_is_copied(tmp_path: Path) -> None:
    update(tmp_path, make_items("a=A b=B"))
    update(tmp_path, make_items("a=N"))
    assert update(tmp_path, make_items("a=N x=A y=B")) == [], "rows of removed items and of older contents"
    check(tmp_path, make_items("a=N x=A y=B"))


@pytest.mark.parametrize("stop_after", range(8))
def test_interrupted_copies_are_completed(tmp_path: Path, stop_after: int) -> None:
    """After a crash in front of any shard, the store is that of a run without a crash, and no content is repeated."""
    before = make_items(" ".join(f"i{c}={c}" for c in "ABCDEF"))
    after = make_items("x=A iB=Z iC=B " + " ".join(f"n{k}={'NOPQRST'[k % 7]}" for k in range(17)))
    for root in (tmp_path / "whole", tmp_path / "crashed"):
        update(root, before)
    expected = update(tmp_path / "whole", after)
    assert len(expected) == 8
    try:
        first = update(tmp_path / "crashed", after, stop_after)
    except KeyboardInterrupt:
        first = expected[: stop_after * SHARD]
    assert [*first, *update(tmp_path / "crashed", after)] == expected
    check(tmp_path / "crashed", after)
    whole, crashed = (read_store_manifest(open_store(tmp_path / name)) for name in ("whole", "crashed"))
    assert crashed == whole


def test_copy_of_an_invalid_item_has_its_reason(tmp_path: Path) -> None:
    targets = make_items("a=A x=N y=N")
    assert update(tmp_path, targets, invalid=targets[1].hash) == ["a", "x"]
    with Store(open_store(tmp_path)) as store:
        assert store.invalid_items == {"x": "x is damaged", "y": "its content is that of x: x is damaged"}


def test_damaged_rows_are_not_copied(tmp_path: Path) -> None:
    update(tmp_path, make_items("a=A b=B"))
    folder = open_store(tmp_path)
    before = read_store_manifest(folder)
    damaged = spoil(folder / before.shards[0].file, 0)
    with pytest.raises(ValueError, match=f"the rows of {damaged} do not have the checksum"):
        update(tmp_path, make_items("a=A b=B x=A"))
    assert read_store_manifest(folder) == before
    assert sorted(path.name for path in folder.glob("*.h5")) == [before.shards[0].file]

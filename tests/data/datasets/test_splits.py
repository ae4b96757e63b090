"""Drawn splits: the content decides, copies share a split, and small datasets get enough held-out images."""

import hashlib
import json
from pathlib import Path

import pytest

from data.config import DatasetConfig
from data.datasets import load_dataset


def draw(content: str) -> str:
    """Independent of the code: the rule of the README, 90, 5 and 5 % by SHA-256."""
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 20
    return "val" if number == 0 else "test" if number == 1 else "train"


def splits(tmp_path, names, without_caption=(), declared=None, contents=None) -> dict[str, str]:
    """Splits of images whose content is their name, if `contents` has no other one."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    contents = contents or {name: name for name in names}
    rows = []
    for name in names:
        (tmp_path / "photos" / name).write_text(contents[name])
        split = {"split": declared[name]} if declared and name in declared else {}
        row = {"image": name, "caption": f"a picture of {name}"} | split
        rows += [] if name in without_caption else [json.dumps(row)]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(rows))
    found = load_dataset(DatasetConfig(name="x", format="folder", annotations=path, images=tmp_path / "photos"))
    moved = [image for image in found.images if not declared and image.split != draw(contents[image.id])]
    assert bool(found.notes) == bool(moved)
    return {image.id: image.split for image in found.images}


ALBUMS = [[f"P{start}{k:04d}.jpg" for k in range(63)] for start in range(30)]


@pytest.mark.parametrize("size", [10, 12, 20, 63])
def test_every_small_album_has_two_images_in_each_held_out_split(tmp_path, size):
    """Without the rule, 36 % of all albums of 20 images have no image in val."""
    for number, album in enumerate(ALBUMS):
        (tmp_path / str(number)).mkdir()
        values = list(splits(tmp_path / str(number), album[:size]).values())
        assert values.count("val") >= 2
        assert values.count("test") >= 2
        assert values.count("train") >= 2


def test_dataset_with_enough_held_out_images_keeps_the_draw(tmp_path):
    names = [f"{k}.jpg" for k in range(400)]
    assert splits(tmp_path, names) == {name: draw(name) for name in names}


def test_only_as_many_images_move_as_are_missing(tmp_path):
    for album in ALBUMS[:10]:
        found = splits(tmp_path, album[:20])
        moved = {name: split for name, split in found.items() if split != draw(name)}
        drawn = [draw(name) for name in album[:20]]
        expected = {split: max(0, 2 - drawn.count(split)) for split in ("val", "test")}
        assert {split: list(moved.values()).count(split) for split in expected} == expected
        assert all(draw(name) == "train" for name in moved)
        for path in (tmp_path / "photos").iterdir():
            path.unlink()


def test_growing_dataset_moves_no_image_from_train_to_a_held_out_split(tmp_path):
    for number, album in enumerate(ALBUMS[:3]):
        (tmp_path / str(number)).mkdir()
        previous: dict[str, str] = {}
        for size in range(10, 63, 4):
            found = splits(tmp_path / str(number), album[:size])
            assert all(found[name] == "train" for name, split in previous.items() if split == "train")
            assert all(found[name] == draw(name) for name in found if draw(name) != "train")
            previous = found


def test_images_without_captions_and_declared_splits_never_move(tmp_path):
    album = ALBUMS[0][:20]
    found = splits(tmp_path, album, without_caption=album[5:])
    assert {name for name in album if found[name] != draw(name)} <= set(album[:5])
    assert splits(tmp_path, album, declared=dict.fromkeys(album, "train")) == dict.fromkeys(album, "train")


@pytest.mark.parametrize(("size", "expected"), [(2, (0, 0, 2)), (3, (1, 0, 2)), (4, (1, 1, 2)), (9, (1, 1, 7))])
def test_fewer_than_ten_images_keep_two_for_training(tmp_path, size, expected):
    names = [name for name in (f"{k}.jpg" for k in range(100)) if draw(name) == "train"][:size]
    values = list(splits(tmp_path, names).values())
    assert tuple(values.count(split) for split in ("val", "test", "train")) == expected


@pytest.mark.parametrize("num_contents", [4, 9, 12, 60, 400])
def test_copies_never_fall_on_both_sides(tmp_path, num_contents):
    """Three names per content, the last one without a caption; no name says anything about the content."""
    contents = {f"{copy}-{k}.jpg": f"content {k}" for k in range(num_contents) for copy in "abc"}
    found = splits(tmp_path, list(contents), [name for name in contents if name.startswith("c")], contents=contents)
    sides = {content: {found[name] for name in contents if contents[name] == content} for content in contents.values()}
    assert all(len(names) == 1 for names in sides.values())
    held_out = [content for content, names in sides.items() if names != {"train"}]
    minimum = 2 if num_contents >= 10 else 1
    assert {split: sum(sides[c] == {split} for c in held_out) >= minimum for split in ("val", "test")} == {
        "val": True,
        "test": True,
    }, "contents count, not copies"


def test_renamed_image_keeps_its_split(tmp_path):
    names = [f"{k}.jpg" for k in range(400)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = splits(tmp_path / "a", names)
    contents = {f"renamed-{name}": name for name in names}
    after = splits(tmp_path / "b", list(contents), contents=contents)
    assert {contents[name]: split for name, split in after.items()} == before


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"a.jpg": "test"}, "test"),
        ({"a.jpg": "train"}, "train"),
        ({"a.jpg": "train", "b.jpg": "val"}, "val"),
        ({"a.jpg": "test", "b.jpg": "val"}, "test"),
    ],
)
def test_copy_of_an_image_that_names_a_split_gets_that_split(tmp_path, declared, expected):
    contents = dict.fromkeys(("a.jpg", "b.jpg", "z.jpg"), "equal")
    found = splits(tmp_path, list(contents), declared=declared, contents=contents)
    assert found["z.jpg"] == expected
    assert {name: found[name] for name in declared} == declared


def test_files_are_hashed_only_if_a_split_is_drawn(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    asked: list[list[str]] = []

    def get_hashes(paths):
        asked.append([path.name for path in paths])
        return ["unreadable: Permission denied" for _ in paths]

    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_text(name)
    rows = [{"image": name, "caption": "a picture", "split": "train"} for name in ("a.jpg", "b.jpg")]
    config = DatasetConfig(name="x", format="folder", annotations=tmp_path / "c.jsonl", images=tmp_path / "photos")
    config.annotations.write_text("\n".join(map(json.dumps, rows)))
    load_dataset(config, get_hashes)
    assert asked == []
    (tmp_path / "photos" / "c.jpg").write_text("c")
    found = load_dataset(config, get_hashes)
    assert asked == [["a.jpg", "b.jpg", "c.jpg"]]
    assert found.images_by_id["c.jpg"].split == draw("c.jpg"), "a file that cannot be read is drawn by its name"

"""Drawn splits: the hash of a name decides, and small datasets get enough held-out images."""

import hashlib
import json

import pytest

from data.config import DatasetConfig
from data.datasets import load_dataset


def draw(name: str) -> str:
    """Independent of the code: the rule of the README, 90, 5 and 5 % by SHA-256."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20
    return "val" if number == 0 else "test" if number == 1 else "train"


def splits(tmp_path, names, without_caption=(), declared=None) -> dict[str, str]:
    (tmp_path / "photos").mkdir(exist_ok=True)
    rows = []
    for name in names:
        (tmp_path / "photos" / name).write_bytes(b"jpeg")
        row = {"image": name, "caption": f"a picture of {name}"} | ({"split": declared[name]} if declared else {})
        rows += [] if name in without_caption else [json.dumps(row)]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(rows))
    found = load_dataset(DatasetConfig(name="x", format="folder", annotations=path, images=tmp_path / "photos"))
    assert bool(found.notes) == any(image.split != draw(image.id) for image in found.images if not declared)
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

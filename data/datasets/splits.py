"""Draw splits for images whose annotations have none, by their content: copies of an image have one split."""

from collections.abc import Collection, Mapping

from data.io.digests import sha256_text

MIN_HELD_OUT = 2  # contents with captions in `val` and in `test`: one image is found among one at every rank
MIN_CONTENTS = 10  # contents with captions from which both splits have `MIN_HELD_OUT`; smaller datasets have one
MIN_TRAIN = 2  # a loss compares an image with captions of another one
RANKS = ("train", "val", "test")  # an image of `test` is never trained on, whatever the split of its copy is


def draw_splits(
    declared: Mapping[str, str | None], hash_by_image_id: Mapping[str, str], captioned: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Draw the splits of the images that name none.

    A copy of an image that names a split gets that split.

    Args:
        declared: Split that each image names; None: it names none.
        hash_by_image_id: Content hash of each image, 64 hex digits.
        captioned: Ids of the images with captions.

    Returns:
        The split of each image that names none, and of these the images that `complete_held_out` moved.
    """
    split_by_hash: dict[str, str] = {}
    for name, split in declared.items():
        value = hash_by_image_id[name]
        if split is not None:
            split_by_hash[value] = max(split, split_by_hash.get(value, split), key=RANKS.index)
    drawn = {hash_by_image_id[name] for name, split in declared.items() if split is None} - {*split_by_hash}
    split_by_hash |= {value: draw_split(value) for value in drawn}
    hashes = {hash_by_image_id[name] for name in captioned}
    moved = complete_held_out({value: split_by_hash[value] for value in hashes}, drawn)
    split_by_hash |= moved
    undeclared = {name: hash_by_image_id[name] for name, split in declared.items() if split is None}
    splits = {name: split_by_hash[value] for name, value in undeclared.items()}
    return splits, {name: split for name, split in splits.items() if undeclared[name] in moved}


def draw_split(content_hash: str) -> str:
    """Draw the split of an image by the hash of its content: 90 % train, 5 % val, 5 % test."""
    return {0: "val", 1: "test"}.get(int(content_hash[:8], 16) % 20, "train")


def complete_held_out(split_by_hash: Mapping[str, str], drawn: Collection[str]) -> dict[str, str]:
    """Choose the contents that a small dataset moves from `train` to `val` and `test`, so that neither is too small.

    Only contents whose split was drawn move, those with the smallest hash first. A dataset in which the draw gives both
    splits enough contents stays as it is: adding images never moves one from `train` to another split.

    Args:
        split_by_hash: Splits of all contents with captions, by content hash.
        drawn: Content hashes whose split was drawn.

    Returns:
        The new split of each content that moves.
    """
    splits = list(split_by_hash.values())
    minimum = MIN_HELD_OUT if len(splits) >= MIN_CONTENTS else 1
    num_movable = splits.count("train") - MIN_TRAIN
    moved: dict[str, str] = {}
    for split in RANKS[1:]:
        num_missing = min(minimum - splits.count(split), num_movable - len(moved))
        if num_missing > 0:
            hashes = [value for value in drawn if split_by_hash.get(value) == "train" and value not in moved]
            hashes.sort(key=lambda value, split=split: sha256_text(f"{split} {value}"))  # type: ignore[misc]
            moved |= dict.fromkeys(hashes[:num_missing], split)
    return moved

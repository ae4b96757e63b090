"""Draw splits for images whose annotations have none."""

from collections.abc import Collection, Mapping

from data.io.digests import sha256_text
from data.text import escape_invalid_text

MIN_HELD_OUT = 2  # images with captions in `val` and in `test`: one image is found among one at every rank
MIN_IMAGES = 10  # images with captions from which both splits have `MIN_HELD_OUT`; smaller datasets have one
MIN_TRAIN = 2  # a loss compares an image with captions of another one


def draw_split(image_id: str) -> str:
    """Draw the split of an image by the hash of its id: 90 % train, 5 % val, 5 % test."""
    return {0: "val", 1: "test"}.get(_hash(image_id) % 20, "train")


def complete_held_out(split_by_image_id: Mapping[str, str], drawn_ids: Collection[str]) -> dict[str, str]:
    """Choose the images that a small dataset moves from `train` to `val` and `test`, so that neither is too small.

    Only images whose split was drawn move, those with the smallest hash first. A dataset in which the draw gives both
    splits enough images stays as it is: adding images never moves one from `train` to another split.

    Args:
        split_by_image_id: Splits of all images with captions.
        drawn_ids: Images whose split was drawn.

    Returns:
        The new split of each image that moves.
    """
    splits = list(split_by_image_id.values())
    minimum = MIN_HELD_OUT if len(splits) >= MIN_IMAGES else 1
    num_movable = splits.count("train") - MIN_TRAIN
    moved: dict[str, str] = {}
    for split in ("val", "test"):
        num_missing = min(minimum - splits.count(split), num_movable - len(moved))
        if num_missing > 0:
            ids = [name for name in drawn_ids if split_by_image_id.get(name) == "train" and name not in moved]
            ids.sort(key=lambda name, split=split: _hash(f"{split} {name}"))  # type: ignore[misc]
            moved |= dict.fromkeys(ids[:num_missing], split)
    return moved


def _hash(text: str) -> int:
    return int(sha256_text(escape_invalid_text(text))[:8], 16)

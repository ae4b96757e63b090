"""Read and check a dataset.

A new format needs a module in this folder, an entry in `READERS`, and its name in `DatasetConfig.format`. Without
annotations, the dataset is the folder of images (`folder_tree`).

Invalid records are never dropped silently: `Dataset.invalid_records` lists each one with the reason.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.config import DatasetConfig
from data.datasets.captions_file import read_captions_file
from data.datasets.columns import convert_columns
from data.datasets.entry import Annotations, Entry, InvalidText
from data.datasets.folder_tree import read_folder_tree
from data.datasets.karpathy import read_karpathy
from data.datasets.records import SPLITS, Caption, Dataset, Image, InvalidRecord
from data.datasets.splits import draw_splits
from data.images.hash_cache import hash_files, is_content_hash
from data.images.paths import ImagePaths
from data.io.digests import sha256_text
from data.text import escape_invalid_text, find_id_problem, printable

MAX_ANNOTATION_BYTES = 2 << 30  # COCO's Karpathy file has 0.15 GB; a larger file is not an annotation file
MAX_CAPTION_CHARACTERS = 2_000
READERS: Mapping[str, Callable[[DatasetConfig], Annotations]] = {
    "karpathy": read_karpathy,
    "folder": read_captions_file,
}


def load_dataset(config: DatasetConfig, get_hashes: Callable[[Sequence[Path]], Sequence[str]] = hash_files) -> Dataset:
    """Read and check a dataset.

    Args:
        config: Location and format of the dataset.
        get_hashes: Returns the content hash of each file, or `unreadable: REASON`; such as `FileHashCache.get_hashes`.
            Called only if an image names no split, because the split is drawn by the content then.

    Raises:
        FileNotFoundError: The annotation file or the folder of images is missing.
        ValueError: The annotation file or the folder cannot be read, or no image is valid.
    """
    annotations = config.annotations
    if annotations is not None and not annotations.is_file():
        raise FileNotFoundError(f"No annotations at {annotations}. In the plan, set `annotations`.")
    if not config.images.is_dir():
        raise FileNotFoundError(f"No folder of images at {config.images}. In the plan, set `images`.")
    if annotations is None:
        return _check_entries(config, read_folder_tree(config), get_hashes)
    if (size := annotations.stat().st_size) > MAX_ANNOTATION_BYTES:
        raise ValueError(
            f"{annotations} has {size:,} bytes; an annotation file has at most {MAX_ANNOTATION_BYTES:,}. Set "
            "`annotations` to another file."
        )
    return _check_entries(config, READERS[config.format or "karpathy"](config), get_hashes)


@dataclass
class _Records:
    """Checked records of a dataset, before splits are drawn."""

    images: dict[str, Image] = field(default_factory=dict)
    """By id."""
    captions: list[Caption] = field(default_factory=list)
    invalid: list[InvalidRecord] = field(default_factory=list)
    declared: dict[str, str | None] = field(default_factory=dict)
    """Split that each image names; None: it names none."""


def _check_entries(
    config: DatasetConfig, annotations: Annotations, get_hashes: Callable[[Sequence[Path]], Sequence[str]]
) -> Dataset:
    root = config.images.resolve()
    paths, records = ImagePaths(root), _Records()
    columns, column_notes = convert_columns(annotations.entries, config.columns)
    for entry in annotations.entries:
        _add_entry(entry, root, paths, records)
    annotations.entries.clear()  # the memory of hashes is needed next
    images, invalid = records.images, records.invalid
    if not images:
        first = f" The first one: {printable(f'{invalid[0].name}: {invalid[0].reason}')}." if invalid else ""
        raise ValueError(
            f"{config.annotations or config.images}: none of its {len(invalid)} images is valid.{first} Correct the "
            f"{'file' if config.annotations else 'images'} or `images`."
        )
    note, num_drawn = _draw_splits(records, get_hashes)
    notes = (*annotations.notes, *column_notes, *([note] if note else ()))
    captions = tuple(records.captions)
    return Dataset(config.name, root, tuple(images.values()), captions, tuple(invalid), notes, num_drawn, columns)


def _add_entry(entry: Entry, root: Path, paths: ImagePaths, records: _Records) -> None:
    """Check an image and its captions, and add them to the records."""
    split = "train" if entry.split == "restval" else entry.split
    if reason := entry.problem or _find_image_problem(entry, split, paths, records.images):
        records.invalid.append(InvalidRecord(escape_invalid_text(str(entry.id)), escape_invalid_text(reason)))
        return
    records.images[entry.id] = Image(entry.id, root / entry.relative, split or "train", entry.values)
    records.declared[entry.id] = split
    for number, text in enumerate(entry.texts):
        name = f"{entry.id}#{number}"
        if reason := _find_caption_problem(text):
            records.invalid.append(InvalidRecord(name, reason))
        else:
            records.captions.append(Caption(name, entry.id, " ".join(text.split())))


def _draw_splits(records: _Records, get_hashes: Callable[[Sequence[Path]], Sequence[str]]) -> tuple[str, int]:
    """Draw the splits of the images that name none.

    Returns:
        A note about the images that a small dataset moves to the held-out splits, or an empty text; and the number of
        images whose split was drawn.
    """
    images = records.images
    if None not in records.declared.values():
        return "", 0
    hashes = get_hashes([image.path for image in images.values()])
    hash_by_image_id = {
        # An unreadable file has no content yet: extraction reports it, and draws by its content once it can be read.
        name: value if is_content_hash(value) else sha256_text(name)
        for name, value in zip(images, hashes, strict=True)
    }
    splits, moved = draw_splits(records.declared, hash_by_image_id, {caption.image_id for caption in records.captions})
    for name, split in splits.items():
        images[name] = replace(images[name], split=split)
    if not moved:
        return "", len(splits)
    names = ", ".join(f"{printable(name)} in {split}" for name, split in moved.items())
    return (
        f"the draw by content leaves val or test too small, so that these images move: {names}. Write a field `split` "
        "to keep the splits while the dataset grows",
        len(splits),
    )


def _find_image_problem(entry: Entry, split: Any, paths: ImagePaths, images: Mapping[str, Image]) -> str:
    """Return why an image is invalid, or an empty text."""
    if not isinstance(entry.id, str) or not entry.id:
        return "its file name is not a text"
    if entry.id in images:
        return "duplicate id: an earlier image has this name"
    if escape_invalid_text(entry.id) != entry.id:
        return "its name is not UTF-8; rename the file"
    if split is not None and split not in SPLITS:
        return f"unknown split {split!r}; it must be one of {', '.join(SPLITS)} and restval"
    if reason := paths.find_problem(entry.relative):
        return reason
    reason = find_id_problem(entry.id)
    return f"its name is not valid: {reason}; rename the file" if reason else ""


def _find_caption_problem(text: Any) -> str:
    """Return why a caption is invalid, or an empty text."""
    if isinstance(text, InvalidText):
        return text.reason
    if text is None:
        return "the caption is not a text but null"
    if not isinstance(text, str):
        return f"the caption is not a text but {type(text).__name__}"
    if escape_invalid_text(text) != text:
        return "the caption has half a character (a lone surrogate): it was cut or converted wrongly"
    if not any(map(_is_visible, text)):
        return "the caption is empty"
    if "\0" in text:  # at which SQLite's `like` and other C libraries end a text
        return "the caption contains the character NUL"
    if len(text) > MAX_CAPTION_CHARACTERS:
        return f"the caption has {len(text):,} characters; at most {MAX_CAPTION_CHARACTERS:,} are allowed"
    return ""


def _is_visible(character: str) -> bool:
    """Return whether a character is visible: spaces, controls and marks such as U+200B and U+202E are not."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp")

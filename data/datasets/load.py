"""Read and check a dataset.

A new format needs a module in this folder, an entry in `READERS`, and its name in `DatasetConfig.format`.

Invalid records are never dropped silently: `Dataset.invalid_records` lists each one with the reason.
"""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.config import DatasetConfig
from data.datasets.captions_file import read_captions_file
from data.datasets.entry import Annotations, Entry, InvalidText
from data.datasets.karpathy import read_karpathy
from data.datasets.records import SPLITS, Caption, Dataset, Image, InvalidRecord
from data.datasets.splits import complete_held_out, draw_split
from data.images.folder import find_path_problem
from data.text import escape_invalid_text, find_id_problem, printable

MAX_ANNOTATION_BYTES = 2 << 30  # COCO's Karpathy file has 0.15 GB; a larger file is not an annotation file
MAX_CAPTION_CHARACTERS = 2_000
READERS: Mapping[str, Callable[[DatasetConfig], Annotations]] = {
    "karpathy": read_karpathy,
    "folder": read_captions_file,
}


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read and check a dataset.

    Raises:
        FileNotFoundError: The annotation file or the folder of images is missing.
        ValueError: The annotation file cannot be read, or no image is valid.
    """
    if not config.annotations.is_file():
        raise FileNotFoundError(f"No annotations at {config.annotations}. In the plan, set `annotations`.")
    if not config.images.is_dir():
        raise FileNotFoundError(f"No folder of images at {config.images}. In the plan, set `images`.")
    if (size := config.annotations.stat().st_size) > MAX_ANNOTATION_BYTES:
        raise ValueError(
            f"{config.annotations} has {size:,} bytes; an annotation file has at most {MAX_ANNOTATION_BYTES:,}. Set "
            "`annotations` to another file."
        )
    return _check_entries(config, READERS[config.format](config))


def _check_entries(config: DatasetConfig, annotations: Annotations) -> Dataset:
    root = config.images.resolve()
    images: dict[str, Image] = {}
    captions: list[Caption] = []
    invalid: list[InvalidRecord] = []
    drawn: set[str] = set()
    for entry in annotations.entries:
        split = draw_split(str(entry.id)) if entry.split is None else entry.split
        split = "train" if split == "restval" else split
        reason = entry.problem or _find_image_problem(entry, split, root, images)
        if reason:
            invalid.append(InvalidRecord(escape_invalid_text(str(entry.id)), escape_invalid_text(reason)))
            continue
        images[entry.id] = Image(entry.id, root / entry.relative, split)
        if entry.split is None:
            drawn.add(entry.id)
        for number, text in enumerate(entry.texts):
            name = f"{entry.id}#{number}"
            if reason := _find_caption_problem(text):
                invalid.append(InvalidRecord(name, reason))
            else:
                captions.append(Caption(name, entry.id, " ".join(text.split())))
    if not images:
        first = f" The first one: {printable(f'{invalid[0].name}: {invalid[0].reason}')}." if invalid else ""
        raise ValueError(
            f"{config.annotations}: none of its {len(invalid)} images is valid.{first} Correct the file or `images`."
        )
    note = _complete_splits(images, captions, drawn)
    notes = (*annotations.notes, note) if note else annotations.notes
    return Dataset(config.name, root, tuple(images.values()), tuple(captions), tuple(invalid), notes, len(drawn))


def _complete_splits(images: dict[str, Image], captions: Sequence[Caption], drawn: Collection[str]) -> str:
    """Move images of a small dataset to the held-out splits; return a note about them, or an empty text."""
    split_by_image_id = {caption.image_id: images[caption.image_id].split for caption in captions}
    moved = complete_held_out(split_by_image_id, drawn)
    for name, split in moved.items():
        images[name] = replace(images[name], split=split)
    names = ", ".join(f"{printable(name)} in {split}" for name, split in moved.items())
    return (
        f"the draw by file name leaves val or test too small, so that these images move: {names}. Write a field "
        "`split` to keep the splits while the dataset grows"
        if moved
        else ""
    )


def _find_image_problem(entry: Entry, split: Any, root: Path, images: Mapping[str, Image]) -> str:
    """Return why an image is invalid, or an empty text."""
    if not isinstance(entry.id, str) or not entry.id:
        return "its file name is not a text"
    if entry.id in images:
        return "duplicate id: an earlier image has this name"
    if escape_invalid_text(entry.id) != entry.id:
        return "its name is not UTF-8; rename the file"
    if split not in SPLITS:
        return f"unknown split {split!r}; it must be one of {', '.join(SPLITS)} and restval"
    if reason := find_path_problem(entry.relative, root):
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

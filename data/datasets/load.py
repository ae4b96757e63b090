"""Read datasets as they are published: Karpathy JSON (Flickr30k, Flickr8k, COCO), or a folder with a captions file.

Nothing is dropped silently: a record that cannot be used is set aside by name with its reason (`Dataset.invalid_records`).
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.config import DatasetConfig
from data.datasets.captions_file import _folder
from data.datasets.entry import _Entry
from data.datasets.karpathy import _karpathy
from data.datasets.records import SPLITS, Caption, Dataset, Image, InvalidRecord
from data.images.folder import find_path_problem
from data.text import escape_invalid_text, printable

MAX_ANNOTATION_BYTES = 2 << 30  # COCO's Karpathy file is 0.15 GB; a larger one is not an annotation file
MAX_CAPTION_CHARACTERS = 2_000


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read and check a dataset. Raises FileNotFoundError or ValueError if nothing of it can be used."""
    if not config.annotations.is_file():
        raise FileNotFoundError(f"No annotations at {config.annotations}; set `annotations` in the plan.")
    if not config.images.is_dir():
        raise FileNotFoundError(f"No folder of images at {config.images}; set `images` in the plan.")
    if (size := config.annotations.stat().st_size) > MAX_ANNOTATION_BYTES:
        raise ValueError(f"{config.annotations} has {size:,} bytes; at most {MAX_ANNOTATION_BYTES:,} are read.")
    entries = _karpathy(config) if config.format == "karpathy" else _folder(config)
    return _collect(config, entries)


def _collect(config: DatasetConfig, entries: Iterable[_Entry]) -> Dataset:
    root = config.images.resolve()
    images: dict[str, Image] = {}
    captions: list[Caption] = []
    refused: list[InvalidRecord] = []
    for entry in entries:
        reason = entry.problem or _problem(entry, root, images)
        if reason:
            refused.append(InvalidRecord(escape_invalid_text(str(entry.id)), escape_invalid_text(reason)))
            continue
        images[entry.id] = Image(entry.id, root / entry.relative, entry.split)
        for number, text in enumerate(entry.texts):
            name = f"{entry.id}#{number}"
            if reason := _caption_problem(text):
                refused.append(InvalidRecord(name, reason))
            else:
                captions.append(Caption(name, entry.id, " ".join(text.split())))
    if not images:
        first = f" The first: {printable(f'{refused[0].name}: {refused[0].reason}')}." if refused else ""
        raise ValueError(f"{config.annotations}: none of its {len(refused)} images can be used.{first}")
    return Dataset(config.name, root, tuple(images.values()), tuple(captions), tuple(refused))


def _problem(entry: _Entry, root: Path, seen: dict[str, Image]) -> str:
    """Why an image cannot be used, or an empty text."""
    if not isinstance(entry.id, str) or not entry.id:
        return "its file name is not a text"
    if entry.id in seen:
        return "duplicate id: an image of this name came before"
    if escape_invalid_text(entry.id) != entry.id:
        return "its name is not UTF-8; rename the file"
    if entry.split not in SPLITS:
        return f"unknown split {entry.split!r}; known are {', '.join(SPLITS)} and restval"
    return find_path_problem(entry.relative, root)


def _caption_problem(text: Any) -> str:
    if not isinstance(text, str):
        return f"the caption is not a text but {type(text).__name__}"
    if escape_invalid_text(text) != text:
        return "the caption holds half a character (a lone surrogate): it was cut or converted wrongly"
    if not any(map(_visible, text)):
        return "the caption is empty"
    if len(text) > MAX_CAPTION_CHARACTERS:
        return f"the caption has {len(text):,} characters; at most {MAX_CAPTION_CHARACTERS:,} are read"
    return ""


def _visible(character: str) -> bool:
    """Whether a character shows: spaces, controls and marks of direction or width (U+200B, U+202E) do not."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp")

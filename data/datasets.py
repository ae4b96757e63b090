"""Read data sets as they are published: Karpathy JSON (Flickr30k, Flickr8k, COCO), or a folder with a captions file.

Nothing is dropped silently: a record that cannot be used is set aside by name with its reason (`Dataset.invalid_records`).
"""

import csv
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict

from data.files import read_json, sha256_text
from data.folder import escape_invalid_text, find_path_problem, iter_image_files
from data.records import SPLITS, Caption, Dataset, Image, InvalidRecord, printable

MAX_ANNOTATION_BYTES = 2 << 30  # COCO's Karpathy file is 0.15 GB; a larger one is not an annotation file
MAX_CAPTION_CHARACTERS = 2_000


class DatasetConfig(BaseModel):
    """Where a data set lies.

    `karpathy`: `annotations` is a Karpathy JSON, `images` the folder its file names are relative to.
    `folder`: `annotations` is a .jsonl or .csv with the fields image, caption (or captions) and, if you like, split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    format: Literal["karpathy", "folder"] = "karpathy"
    annotations: Path
    images: Path


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read and check a data set. Raises FileNotFoundError or ValueError if nothing of it can be used."""
    if not config.annotations.is_file():
        raise FileNotFoundError(f"No annotations at {config.annotations}; set `annotations` in the plan.")
    if not config.images.is_dir():
        raise FileNotFoundError(f"No folder of images at {config.images}; set `images` in the plan.")
    if (size := config.annotations.stat().st_size) > MAX_ANNOTATION_BYTES:
        raise ValueError(f"{config.annotations} has {size:,} bytes; at most {MAX_ANNOTATION_BYTES:,} are read.")
    entries = _karpathy(config) if config.format == "karpathy" else _folder(config)
    return _collect(config, entries)


@dataclass
class _Entry:
    """One image as the annotations name it, before any check."""

    id: Any
    relative: Any  # path below the folder of images
    split: Any
    texts: list[Any] = field(default_factory=list)
    problem: str = ""  # why the record itself cannot be read


def _karpathy(config: DatasetConfig) -> Iterator[_Entry]:
    """Karpathy's splits: `restval` is training data (COCO); `filepath` is the folder of COCO's two image sets."""
    content = read_json(config.annotations)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{config.annotations} has no list `images`; is it a Karpathy JSON?")
    for number, record in enumerate(content["images"]):
        try:
            name, split = record["filename"], record["split"]
            texts = [s["raw"] if "raw" in s else " ".join(s["tokens"]) for s in record["sentences"]]
        except (KeyError, TypeError) as error:
            yield _Entry(f"images[{number}]", "", "train", problem=f"the record lacks {error}")
            continue
        relative = f"{record['filepath']}/{name}" if record.get("filepath") else name
        yield _Entry(name, relative, "train" if split == "restval" else split, texts)


def _folder(config: DatasetConfig) -> Iterable[_Entry]:
    """Rows of a captions file, grouped by image; images of the folder without a row come last, without captions."""
    found: dict[Any, _Entry] = {}
    problems: list[_Entry] = []
    for place, row in _rows(config.annotations):
        if not isinstance(row, dict) or not isinstance(row.get("image"), str):
            problems.append(_Entry(place, "", "train", problem="the row has no text field `image`"))
            continue
        name = posixpath.normpath(row["image"])  # ./a.jpg is a.jpg
        if None in row:
            reason = "the row has more fields than the first line names; put captions with commas into quotes"
            problems.append(_Entry(f"{name} at {place}", "", "train", problem=reason))
            continue
        entry = found.setdefault(name, _Entry(name, name, row.get("split") or _split_of(name)))
        if not row.get("split") or row["split"] == entry.split:
            several = row.get("captions")
            entry.texts.extend(several if isinstance(several, list) else [several] if several is not None else [])
            if "caption" in row or several is None:
                entry.texts.append(row.get("caption"))
        else:
            problems.append(
                _Entry(
                    f"{name} at {place}",
                    "",
                    "train",
                    problem=f"split {row['split']!r} contradicts {entry.split!r}",
                )
            )
    for name, problem in iter_image_files(config.images):
        if problem:
            problems.append(_Entry(name, "", "train", problem=problem))
        elif name not in found:
            found[name] = _Entry(name, name, _split_of(name))
    return [*found.values(), *problems]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of a .jsonl or .csv file; a line that is not JSON is a row of None."""
    read = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: a captions file ends in .jsonl or .csv.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from read(path, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Save it as UTF-8 text.") from error


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(file)
    if "image" not in (reader.fieldnames or ()):
        raise ValueError(f"{path}: the first line must name the columns image, caption; it is {reader.fieldnames}.")
    yield from ((f"line {reader.line_num}", row) for row in reader)


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", _json_or_none(line)


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _split_of(name: str) -> str:
    """A split for an image whose file names none: 90 % train, 5 % val, 5 % test, by the hash of its name."""
    return {0: "val", 1: "test"}.get(int(sha256_text(escape_invalid_text(name))[:8], 16) % 20, "train")


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

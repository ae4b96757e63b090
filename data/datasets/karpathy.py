"""Reader of Karpathy's JSON files: Flickr8k, Flickr30k, COCO."""

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import DatasetConfig
from data.datasets.entry import Annotations, Entry, InvalidText, make_invalid_entry
from data.datasets.rows import CAPTIONS_SUFFIXES
from data.io.files import read_json


@dataclass(frozen=True)
class _Record:
    """A record whose file name, folder and split can be read."""

    location: str
    name: str
    relative: str
    split: Any
    sentences: Any


def read_karpathy(config: DatasetConfig) -> Annotations:
    """Read a Karpathy JSON file.

    The key `filepath` (COCO) is the folder of an image. Where two images of different folders have one file name, their
    ids are their paths.

    Raises:
        ValueError: The file has no list `images`.
    """
    path = config.annotations
    assert path is not None, "a dataset without annotations is read by `read_folder_tree`"
    records: list[_Record | Entry] = [
        _parse_record(f"images[{number}] of {path.name}", record) for number, record in enumerate(_read_images(path))
    ]
    valid = [record for record in records if isinstance(record, _Record)]
    ids = _choose_ids(valid)
    contradictions = _find_contradictions(valid)
    entries: list[Entry] = []
    for record in records:
        if isinstance(record, Entry):
            entries.append(record)
        elif record.relative in contradictions:
            entries.append(make_invalid_entry(f"{record.name} at {record.location}", contradictions[record.relative]))
        else:
            texts, problem = _read_sentences(record.sentences)
            entries.append(Entry(ids[record.relative], record.relative, record.split, texts))
            if problem:
                entries.append(make_invalid_entry(record.location, problem))
    return Annotations(entries)


def _read_images(path: Path) -> list[Any]:
    if path.suffix.lower() in CAPTIONS_SUFFIXES:
        raise ValueError(f'{path} is a captions file. Set `format = "folder"` in the table [dataset] of the plan.')
    content = read_json(path, "Correct the file, or set `annotations` to another one")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{path} has no list `images`. Set `annotations` to a Karpathy JSON file.")
    if isinstance(content.get("annotations"), list):
        raise ValueError(
            f"{path} is a file of COCO, with a list `annotations`. Set `annotations` to a Karpathy JSON file, in which "
            "each image has its `sentences` and its `split`."
        )
    return content["images"]


def _parse_record(location: str, record: Any) -> _Record | Entry:
    if not isinstance(record, dict):
        return make_invalid_entry(location, f"the record is not an object and lacks 'filename': {str(record)[:60]}")
    if missing := next((key for key in ("filename", "split") if key not in record), None):
        return make_invalid_entry(location, f"the record lacks {missing!r}")
    name, folder = record["filename"], record.get("filepath") or ""
    if not isinstance(name, str) or not name:
        return make_invalid_entry(f"{name!s:.60} at {location}", "its file name is not a text")
    if not isinstance(folder, str):
        return make_invalid_entry(f"{name} at {location}", f"its `filepath` is not a text but {type(folder).__name__}")
    if record["split"] is None:
        return make_invalid_entry(f"{name} at {location}", "its split is null; write train, val or test")
    relative = posixpath.normpath(f"{folder}/{name}" if folder else name)
    return _Record(location, posixpath.normpath(name), relative, record["split"], record.get("sentences"))


def _choose_ids(records: Sequence[_Record]) -> dict[str, str]:
    """Choose an id for each path: the file name, or the path where files of different folders have this name."""
    paths_by_name: dict[str, set[str]] = defaultdict(set)
    for record in records:
        paths_by_name[record.name].add(record.relative)
    return {
        record.relative: record.name if len(paths_by_name[record.name]) == 1 else record.relative for record in records
    }


def _find_contradictions(records: Sequence[_Record]) -> Mapping[str, str]:
    """Find the images that occur with different splits; return the problem by path."""
    first_by_path: dict[str, _Record] = {}
    problems: dict[str, str] = {}
    for record in records:
        first = first_by_path.setdefault(record.relative, record)
        if first.split != record.split:
            problems[record.relative] = (
                f"split {record.split!r} at {record.location} contradicts {first.split!r} at {first.location}"
            )
    return problems


def _read_sentences(sentences: Any) -> tuple[list[Any], str]:
    """Read the captions of an image.

    Returns:
        One text per sentence, and the problem of the list itself; empty if there is none.
    """
    if sentences is None:
        return [], "the record lacks 'sentences'; its image has no captions"
    if not isinstance(sentences, list):
        return [], f"its 'sentences' are not a list but {type(sentences).__name__}; its image has no captions"
    return [_read_sentence(sentence) for sentence in sentences], ""


def _read_sentence(sentence: Any) -> Any:
    if isinstance(sentence, str):
        return sentence
    if not isinstance(sentence, dict):
        return InvalidText(f"the sentence is {'null' if sentence is None else 'a ' + type(sentence).__name__}")
    tokens = sentence.get("tokens")
    if not isinstance(sentence.get("raw"), str) and isinstance(tokens, list) and tokens:
        has_texts = all(isinstance(token, str) for token in tokens)
        return " ".join(tokens) if has_texts else InvalidText("the `tokens` of the sentence are not texts")
    return sentence["raw"] if "raw" in sentence else InvalidText("the sentence has neither `raw` nor `tokens`")

"""One collection of 60 images, written in each form that datasets are read from: the records are the same."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.config import DatasetConfig
from data.datasets import Dataset

NUM_IMAGES, NUM_FOLDERS = 60, 3
TYPES = {"author": "text", "likes": "number", "rating": "number", "tags": "texts", "taken": "date", "zip": "text"}


@dataclass(frozen=True)
class Record:
    """An image of the collection."""

    folder: str
    key: str
    content: bytes
    caption: str
    split: str | None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Split and columns as JSON has them; missing ones are left out."""
        return ({} if self.split is None else {"split": self.split}) | self.columns


def make_records(num_images: int = NUM_IMAGES, side: int = 40) -> list[Record]:
    """Draw the images, and make up what is known of them."""
    records = []
    for number in range(num_images):
        columns: dict[str, Any] = {"author": ("Ann", "Bob", "Zoë, the 3rd")[number % 3], "likes": number * 7}
        if number % 4:
            columns["rating"] = number / 8
            columns["taken"] = f"2024-{1 + number % 12:02d}-{1 + number % 28:02d}"
        if number % 5:
            columns["tags"] = ["beach", f"t{number % 2}"]
        columns["zip"] = f"{number:05d}"
        split = ("train", "val", "test", None)[number % 4]
        folder, key = f"s{number % NUM_FOLDERS}", f"img{number:03d}"
        caption = f'A "photo", number {number}.'
        records.append(Record(folder, key, draw_jpeg(number, side), caption, split, columns))
    return records


def draw_jpeg(seed: int, side: int = 40) -> bytes:
    """Return a small JPEG of noise whose content the seed determines."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(pixels).resize((side, side + seed % 5), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_files(root: Path, records: list[Record]) -> None:
    """Write the images as files."""
    for record in records:
        path = root / record.folder / f"{record.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.content)


def write_captions_file(root: Path, records: list[Record]) -> dict[str, Any]:
    write_files(root, records)
    lines = [
        {"image": f"{record.folder}/{record.key}.jpg", "captions": [record.caption], **record.fields}
        for record in records
    ]
    path = root.parent / f"{root.name}-captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"format": "folder", "annotations": path}


def write_metadata_csv(root: Path, records: list[Record]) -> dict[str, Any]:
    write_files(root, records)
    names = ["file_name", "caption", "split", *TYPES]
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for record in records:
            row = {"file_name": f"{record.folder}/{record.key}.jpg", "caption": record.caption, **record.fields}
            writer.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    return {}


def write_metadata_jsonl(root: Path, records: list[Record]) -> dict[str, Any]:
    """Write one table per folder, with names relative to it, and captions in `text`."""
    write_files(root, records)
    for record in records:
        line = {"file_name": f"{record.key}.jpg", "text": record.caption, **record.fields}
        with open(root / record.folder / "metadata.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    return {}


def write_metadata_parquet(root: Path, records: list[Record]) -> dict[str, Any]:
    write_files(root, records)
    lines = [{"file_name": f"{r.folder}/{r.key}.jpg", "caption": r.caption, **r.fields} for r in records]
    pq.write_table(pa.Table.from_pylist(_complete(lines)), root / "metadata.parquet")
    return {}


def write_companions(root: Path, records: list[Record]) -> dict[str, Any]:
    """Write one .txt and one .json per image, as img2dataset does."""
    write_files(root, records)
    for record in records:
        (root / record.folder / f"{record.key}.txt").write_text(record.caption)
        (root / record.folder / f"{record.key}.json").write_text(
            json.dumps({"caption": record.caption, "width": 1, "key": record.key, **record.fields})
        )
    return {}


def write_parquet_images(root: Path, records: list[Record]) -> dict[str, Any]:
    """Write one Parquet file per folder with structs of bytes and path, as `datasets` does."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in sorted({record.folder for record in records}):
        lines = [
            {"image": {"bytes": r.content, "path": r.key}, "caption": r.caption, **r.fields}
            for r in records
            if r.folder == folder
        ]
        pq.write_table(pa.Table.from_pylist(_complete(lines)), root / f"{folder}.parquet", row_group_size=7)
    return {}


def write_tar_shards(root: Path, records: list[Record]) -> dict[str, Any]:
    """Write one tar file per folder with .jpg, .txt and .json per image, as img2dataset does."""
    root.mkdir(parents=True, exist_ok=True)
    for folder in sorted({record.folder for record in records}):
        with tarfile.open(root / f"{folder}.tar", "w") as archive:
            for record in (record for record in records if record.folder == folder):
                fields = json.dumps({"caption": record.caption, "key": record.key, **record.fields})
                for suffix, content in (
                    ("jpg", record.content), ("txt", record.caption.encode()), ("json", fields.encode()),
                ):  # fmt: skip
                    add_member(archive, f"{record.key}.{suffix}", content)
    return {}


def add_member(archive: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    """Add a file to a tar archive; `fields` are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


def _complete(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for line in lines for name in line)
    return [{name: line.get(name) for name in names} for line in lines]


FORMS: dict[str, Callable[[Path, list[Record]], dict[str, Any]]] = {
    "captions file": write_captions_file,
    "metadata.csv": write_metadata_csv,
    "metadata.jsonl": write_metadata_jsonl,
    "metadata.parquet": write_metadata_parquet,
    "text and JSON files": write_companions,
    "Parquet images": write_parquet_images,
    "tar shards": write_tar_shards,
}


def write_form(form: str, root: Path, records: list[Record]) -> DatasetConfig:
    """Write the collection in a form; return the settings that read it."""
    return DatasetConfig.model_validate({"name": "mine", "images": root, **FORMS[form](root, records)})


def describe_records(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Return split, captions and columns of each image, by its id without the suffix of a file."""
    captions = dataset.captions_by_image_id
    return {
        image.id.removesuffix(".jpg"): (
            image.split,
            tuple(caption.text for caption in captions[image.id]),
            dict(image.columns),
        )
        for image in dataset.images
    }

"""Write the demo dataset: JPEG files, annotations in the layout of Karpathy's files, and the boxes of the objects."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from data.config import DemoConfig
from data.demo.captions import generate_captions
from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.demo.scenes.kinds import CLASSES
from data.io.digests import digest
from data.io.files import atomic_write, read_json, remove_stale_temporaries, write_json
from data.text import describe_validation_error

ANNOTATIONS, BOXES, MANIFEST = "dataset_demo.json", "boxes.json", "manifest.json"
SCENES_PER_TASK = 50
VERSION = 1  # raise it when equal settings give other pixels or words
CAPTIONS_PER_SCENE = 5
Task = tuple[int, int, int, str]  # seed, first scene, one past the last scene, folder of the images
SceneFacts = tuple[list[list[float]], list[str], list[str]]  # boxes, labels, captions


class DemoManifest(BaseModel):
    """Content of the `manifest.json` of a demo dataset.

    Attributes:
        digest: Digest of the settings, the version and the classes.
        config: Settings that the dataset is drawn with.
        complete: Whether all files are written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: str
    config: DemoConfig
    complete: bool


def file_name(index: int) -> str:
    """Return the file name of a scene's image."""
    return f"scene-{index:05d}.jpg"


def draw_scenes(task: Task) -> list[SceneFacts]:
    """Draw the missing images of a range of scenes; picklable, for a process pool.

    Returns:
        Per scene: boxes (x1 y1 x2 y2, pixels), labels and captions.
    """
    seed, first, last, folder = task
    facts = []
    for index in range(first, last):
        scene = compose_scene(seed, index)
        pixels, boxes, labels = render_scene(scene)
        path = Path(folder) / file_name(index)
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=scene.quality)
            with atomic_write(path) as temporary:
                temporary.write_bytes(buffer.getvalue())
        facts.append((boxes.tolist(), [CLASSES[k] for k in labels], list(generate_captions(scene))))
    return facts


def generate_demo_dataset(config: DemoConfig, folder: Path, map_fn: Callable[..., Iterable] = map) -> Path:
    """Write the demo dataset, unless it is complete; images that exist are kept.

    Writes `images/scene-00000.jpg` and so on, `dataset_demo.json` (the layout of Karpathy's Flickr30k file) and
    `boxes.json` (x1 y1 x2 y2, pixels). Each file is complete or absent, and the manifest is written last.

    Args:
        config: Which scenes to draw.
        folder: Folder of the dataset.
        map_fn: Function with the signature of the built-in `map`, applied to ranges of scenes.

    Returns:
        `folder`.

    Raises:
        ValueError: The folder holds a dataset of other settings or of another version of this program, or other files.
    """
    folder = Path(folder)
    if is_generated(config, folder):
        return folder
    images_folder = folder / "images"
    if not (folder / MANIFEST).exists() and (found := next(_iter_files(folder), None)) is not None:
        raise ValueError(
            f"{folder} holds other files, such as {found}, and no demo dataset. Move them, or set another workspace."
        )
    images_folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    remove_stale_temporaries(images_folder)
    _write_manifest(config, folder, complete=False)
    starts = range(0, config.images, SCENES_PER_TASK)
    ends = [min(first + SCENES_PER_TASK, config.images) for first in starts]
    tasks: list[Task] = [(config.seed, first, end, str(images_folder)) for first, end in zip(starts, ends, strict=True)]
    facts = [scene_facts for chunk in map_fn(draw_scenes, tasks) for scene_facts in chunk]
    boxes = {file_name(i): {"boxes": box, "labels": labels} for i, (box, labels, _) in enumerate(facts)}
    write_json(folder / BOXES, {"classes": list(CLASSES), "images": boxes})
    records = list(_iter_records(config, [captions for _, _, captions in facts]))
    write_json(folder / ANNOTATIONS, {"dataset": "demo", "images": records})
    _write_manifest(config, folder, complete=True)
    return folder


def _iter_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir() and not path.name.startswith("."))


def is_generated(config: DemoConfig, folder: Path) -> bool:
    """Return whether the demo dataset is complete.

    Raises:
        ValueError: The folder holds a dataset of other settings or of another version of this program.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        return False
    manifest = _read_manifest(path)
    if manifest.digest != _compute_digest(config):
        raise ValueError(
            f"{folder} holds the demo dataset of other settings or another version ({manifest.config.model_dump()}). "
            "Delete it, or set another workspace."
        )
    return manifest.complete


def _read_manifest(path: Path) -> DemoManifest:
    content = read_json(path)
    if isinstance(content, dict) and "whole" in content:  # a key of version 0.1
        raise ValueError(
            f"{path} was written by version 0.1 of this program. Delete {path.parent} and run the command again to "
            "draw the demo dataset again, or install version 0.1."
        )
    try:
        return DemoManifest.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"{path} is not the manifest of a demo dataset: {describe_validation_error(error)}. Delete {path.parent} "
            "and run the command again."
        ) from error


def _write_manifest(config: DemoConfig, folder: Path, complete: bool) -> None:
    manifest = DemoManifest(digest=_compute_digest(config), config=config, complete=complete)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _compute_digest(config: DemoConfig) -> str:
    recipe = {"config": config.model_dump(), "version": VERSION, "classes": list(CLASSES)}
    return digest(recipe | {"order": list(config.splits)})  # the order decides which scenes are in which split


def _iter_records(config: DemoConfig, captions_of_scenes: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Convert the captions of each scene to a record of Karpathy's files."""
    for index, captions in enumerate(captions_of_scenes):
        ids = list(range(index * CAPTIONS_PER_SCENE, (index + 1) * CAPTIONS_PER_SCENE))
        yield {
            "filename": file_name(index),
            "imgid": index,
            "split": config.split_of(index),
            "sentids": ids,
            "sentences": [
                {"raw": raw, "tokens": tokenize(raw), "imgid": index, "sentid": caption_id}
                for caption_id, raw in zip(ids, captions, strict=True)
            ],
        }


def tokenize(raw: str) -> list[str]:
    """Split a caption into lower-case words without punctuation, as in Karpathy's files."""
    return [word for word in raw.lower().replace(".", " ").replace(",", " ").split() if word]

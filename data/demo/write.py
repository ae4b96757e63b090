"""Write the demo dataset: JPEG files, a Karpathy-style JSON, and the boxes."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data.config import DemoConfig
from data.demo.captions import generate_captions
from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.demo.scenes.kinds import CLASSES
from data.io.digests import digest
from data.io.files import atomic_write, read_json, remove_stale_temporaries, write_json

ANNOTATIONS, BOXES, MANIFEST = "dataset_demo.json", "boxes.json", "manifest.json"
CHUNK = 50  # scenes a task
VERSION = 1  # raise it when the same config gives other pixels or words
Task = tuple[int, int, int, str]  # seed, first scene, one past the last, folder of the pictures


def file_name(index: int) -> str:
    """The name of a scene's picture."""
    return f"scene-{index:05d}.jpg"


def draw_chunk(task: Task) -> list[tuple[list[list[float]], list[str], list[str]]]:
    """Draw the missing pictures of a chunk; boxes, labels and captions of each scene. Picklable, for a process pool."""
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
    """Write the dataset into `folder` and return it; what is there already is kept.

    Gives `images/scene-00000.jpg` and on, `dataset_demo.json` (the layout of Karpathy's Flickr30k file) and
    `boxes.json` (x1 y1 x2 y2, pixels). `each` maps a function over chunks; a pool's `map` will do. Pictures appear
    whole or not at all, and the manifest comes last.

    Raises:
        ValueError: the folder holds a dataset of another config.
    """
    folder = Path(folder)
    recipe = _recipe(config)
    if _ready(folder, recipe):
        return folder
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    remove_stale_temporaries(pictures)
    write_json(folder / MANIFEST, {"digest": digest(recipe), "config": config.model_dump(), "complete": False})
    starts = range(0, config.images, CHUNK)
    tasks = [(config.seed, first, min(first + CHUNK, config.images), str(pictures)) for first in starts]
    facts = [fact for chunk in map_fn(draw_chunk, tasks) for fact in chunk]
    boxes = {file_name(i): {"boxes": box, "labels": names} for i, (box, names, _) in enumerate(facts)}
    write_json(folder / BOXES, {"classes": list(CLASSES), "images": boxes})
    images = list(_records(config, [words for _, _, words in facts]))
    write_json(folder / ANNOTATIONS, {"dataset": "demo", "images": images})
    write_json(folder / MANIFEST, {"digest": digest(recipe), "config": config.model_dump(), "complete": True})
    return folder


def is_generated(config: DemoConfig, folder: Path) -> bool:
    """Whether `generate` would find all of it. Raises ValueError as it does."""
    return _ready(Path(folder), _recipe(config))


def _recipe(config: DemoConfig) -> dict[str, Any]:
    recipe = {"config": config.model_dump(), "version": VERSION, "classes": list(CLASSES)}
    return recipe | {"order": list(config.splits)}  # the first split has the first scenes; a digest sorts keys


def _ready(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the dataset is there and whole."""
    path = folder / MANIFEST
    if not path.exists():
        return False
    manifest = read_json(path)
    if manifest["digest"] != digest(recipe):
        raise ValueError(
            f"{folder} holds the demo dataset of another config or version ({manifest['config']}); delete it, or set "
            "another workspace"
        )
    return bool(manifest["complete"])


def _records(config: DemoConfig, words: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Karpathy's record of each image."""
    for index, sentences in enumerate(words):
        ids = list(range(index * 5, index * 5 + 5))
        yield {
            "filename": file_name(index),
            "imgid": index,
            "split": config.split_of(index),
            "sentids": ids,
            "sentences": [
                {"raw": raw, "tokens": tokenize(raw), "imgid": index, "sentid": sentence}
                for sentence, raw in zip(ids, sentences, strict=True)
            ],
        }


def tokenize(raw: str) -> list[str]:
    """Words in lower case without punctuation, as in Karpathy's files."""
    return [word for word in raw.lower().replace(".", " ").replace(",", " ").split() if word]

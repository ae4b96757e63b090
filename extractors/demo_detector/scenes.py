"""Scenes of `extractors`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.demo import CLASSES, KINDS, PLACES, compose_scene, render_scene

REPEAT_THRESHOLD = 0.05  # share of scenes from which a class is not rare
IGNORE_INDEX = -100  # label of boxes that are not asked; cross_entropy leaves it out
# labels of places, and of things that are only ever held: they do nothing
LABELS_WITHOUT_ACTION = frozenset(
    i + 1 for i, name in enumerate(CLASSES) if name in PLACES or KINDS[name].zone == "hand"
)


@dataclass(frozen=True)
class TrainingScene:
    """One scene as it is kept in memory."""

    jpeg: bytes
    size: tuple[int, int]  # width, height, pixels
    boxes: np.ndarray  # (n, 4) float32 pixels
    labels: np.ndarray  # (n,) int64 from 1; 0 is the background
    actions: tuple[str, ...]  # of every box; empty: not asked
    colors: tuple[str, ...]


def render_training_scene(task: tuple[int, int]) -> TrainingScene:
    """The scene (seed, index) as the demo would write it."""
    scene = compose_scene(*task)
    pixels, boxes, labels = render_scene(scene)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=scene.quality)
    actions, colors = [""] * len(labels), [""] * len(labels)
    for kind in {thing.kind for thing in scene.things}:
        things = [thing for thing in scene.things if thing.kind == kind]
        places = np.flatnonzero(labels == CLASSES.index(kind))
        # Boxes come in the order of things; where one is hidden, which box is whose is not known.
        if len(places) == len(things):
            for place, thing in zip(places, things, strict=True):
                actions[place], colors[place] = thing.action, thing.color
    return TrainingScene(file.getvalue(), scene.size, boxes, labels + 1, tuple(actions), tuple(colors))


def collect_vocabulary(lessons: list[TrainingScene]) -> tuple[list[str], list[str]]:
    """All actions and all colors, sorted."""
    actions = {action for lesson in lessons for action in lesson.actions} - {""}
    return sorted(actions), sorted({color for lesson in lessons for color in lesson.colors} - {""})


def load_example(
    lesson: TrainingScene, actions: list[str], colors: list[str], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A scene as (3, h, w) in 0..1, mirrored every second time, a little lighter or darker, and its target."""
    pixels = np.asarray(Image.open(io.BytesIO(lesson.jpeg)), dtype=np.float32)
    boxes = lesson.boxes.copy()
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes[:, [0, 2]] = lesson.size[0] - boxes[:, [2, 0]]
    pixels = np.clip(pixels * np.float32(rng.uniform(0.85, 1.15) / 255), 0, 1)
    pairs = zip(lesson.actions, lesson.labels.tolist(), strict=True)
    target = {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(lesson.labels),
        "action": torch.tensor([actions.index(x) if x else IGNORE_INDEX for x in lesson.actions]),
        "color": torch.tensor([colors.index(x) if x else IGNORE_INDEX for x in lesson.colors]),
        "known": torch.tensor([bool(action) or label in LABELS_WITHOUT_ACTION for action, label in pairs]),
    }
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), target


def iter_batches(lessons: list[TrainingScene], size: int, rng: np.random.Generator) -> Iterator[list[TrainingScene]]:
    """Endless batches; the scenes of a batch have one shape, for padding costs time."""
    repeats = repeat_factors(lessons)
    while True:
        times = np.floor(repeats + rng.random(len(lessons))).astype(int)
        epoch = []
        for shape in sorted({lesson.size for lesson in lessons}):
            members = [i for i, lesson in enumerate(lessons) if lesson.size == shape]
            order = rng.permutation(np.repeat(members, times[members]))
            epoch += [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        for i in rng.permutation(len(epoch)):
            yield [lessons[k] for k in epoch[i]]


def repeat_factors(lessons: list[TrainingScene]) -> np.ndarray:
    """How often an epoch shows each scene, (scenes,): more often where something rare is seen.

    The square root of COMMON over the share of scenes with the rarest thing in it, 1 at least (Gupta et al.,
    LVIS, 2019, section 4.1).
    """
    share = np.zeros(len(CLASSES) + 1)
    for lesson in lessons:
        share[np.unique(lesson.labels)] += 1 / len(lessons)
    return np.array([max(1.0, np.sqrt(REPEAT_THRESHOLD / share[lesson.labels].min())) for lesson in lessons])

"""Training scenes of the demo detector: drawing, augmentation and batches; used by its training only.

Shapes: n boxes of a scene, h x w pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.demo import CLASSES, KINDS, PLACES, compose_scene, render_scene

REPEAT_THRESHOLD = 0.05  # share of scenes; a class in fewer scenes is shown more often
IGNORE_INDEX = -100  # label of boxes without a known value; `cross_entropy` ignores it
LABELS_WITHOUT_ACTION = frozenset(
    i + 1 for i, name in enumerate(CLASSES) if name in PLACES or KINDS[name].zone == "hand"
)
"""Labels of places and of things that are only held; they never have an action."""


@dataclass(frozen=True)
class TrainingScene:
    """A scene in memory, with its boxes."""

    jpeg: bytes
    """Encoded image."""
    size: tuple[int, int]
    """Width and height, in pixels."""
    boxes: np.ndarray
    """(n, 4) float32, x1 y1 x2 y2 in pixels"""
    labels: np.ndarray
    """(n,) int64 from 1; 0 is the background"""
    actions: tuple[str, ...]
    """Action of each box; empty if unknown or none."""
    colors: tuple[str, ...]
    """Shirt color of each box; empty if unknown or none."""


def render_training_scene(task: tuple[int, int]) -> TrainingScene:
    """Draw the scene (seed, index) exactly as the demo dataset would write it."""
    scene = compose_scene(*task)
    pixels, boxes, labels = render_scene(scene)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=scene.quality)
    actions, colors = [""] * len(labels), [""] * len(labels)
    for kind in {thing.kind for thing in scene.things}:
        things = [thing for thing in scene.things if thing.kind == kind]
        indices = np.flatnonzero(labels == CLASSES.index(kind))
        # Boxes come in the order of things. If one thing is hidden, the boxes cannot be assigned.
        if len(indices) == len(things):
            for index, thing in zip(indices, things, strict=True):
                actions[index], colors[index] = thing.action, thing.color
    return TrainingScene(file.getvalue(), scene.size, boxes, labels + 1, tuple(actions), tuple(colors))


def collect_vocabulary(scenes: list[TrainingScene]) -> tuple[list[str], list[str]]:
    """Return all actions and all colors of scenes, sorted."""
    actions = {action for scene in scenes for action in scene.actions} - {""}
    return sorted(actions), sorted({color for scene in scenes for color in scene.colors} - {""})


def load_example(
    scene: TrainingScene, actions: list[str], colors: list[str], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Decode and augment a scene: mirrored with probability 0.5, and up to 15 % lighter or darker.

    Args:
        scene: Scene to load.
        actions: All actions, sorted.
        colors: All colors, sorted.
        rng: Source of the two random numbers.

    Returns:
        (3, h, w) float32 from 0 to 1, and the target: boxes (n, 4) float32, and for each box labels, action and color
        (int64) and whether its action is known (bool).
    """
    pixels = np.asarray(Image.open(io.BytesIO(scene.jpeg)), dtype=np.float32)
    boxes = scene.boxes.copy()
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes[:, [0, 2]] = scene.size[0] - boxes[:, [2, 0]]
    pixels = np.clip(pixels * np.float32(rng.uniform(0.85, 1.15) / 255), 0, 1)
    pairs = zip(scene.actions, scene.labels.tolist(), strict=True)
    target = {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(scene.labels),
        "action": torch.tensor([actions.index(x) if x else IGNORE_INDEX for x in scene.actions]),
        "color": torch.tensor([colors.index(x) if x else IGNORE_INDEX for x in scene.colors]),
        "known": torch.tensor([bool(action) or label in LABELS_WITHOUT_ACTION for action, label in pairs]),
    }
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), target


def iter_batches(scenes: list[TrainingScene], size: int, rng: np.random.Generator) -> Iterator[list[TrainingScene]]:
    """Yield batches of scenes without end, in random order.

    All scenes of a batch have the same size in pixels, because padding costs time.

    Args:
        scenes: Scenes to draw from.
        size: Number of scenes per batch.
        rng: Source of random numbers.
    """
    repeats = repeat_factors(scenes)
    while True:
        times = np.floor(repeats + rng.random(len(scenes))).astype(int)
        epoch = []
        for shape in sorted({scene.size for scene in scenes}):
            members = [i for i, scene in enumerate(scenes) if scene.size == shape]
            order = rng.permutation(np.repeat(members, times[members]))
            epoch += [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        for i in rng.permutation(len(epoch)):
            yield [scenes[k] for k in epoch[i]]


def repeat_factors(scenes: list[TrainingScene]) -> np.ndarray:
    """Compute how often an epoch shows each scene: more often if it contains something rare.

    The factor is the square root of `REPEAT_THRESHOLD` divided by the share of scenes with the rarest label of the
    scene, and at least 1 (Gupta et al., LVIS, 2019, section 4.1).

    Returns:
        (number of scenes,) float.
    """
    share = np.zeros(len(CLASSES) + 1)
    for scene in scenes:
        share[np.unique(scene.labels)] += 1 / len(scenes)
    return np.array([max(1.0, np.sqrt(REPEAT_THRESHOLD / share[scene.labels].min())) for scene in scenes])

"""What the demo's detector is shown, and what it is asked.

Beside Faster R-CNN's four losses, three small heads ask the box head's feature for what a sentence may say and a
class cannot: how many there are (of the whole image), what a thing does and the colour of a shirt (of its box).
They are thrown away after training. b images, n boxes of an image, c classes with the background, d feature width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from data.demo import CLASSES, compose, paint
from extractors.detector import FEATURE_WIDTH

COUNTS = 3  # "one or more", "two or more", "three or more"
COMMON = 0.05  # share of scenes from which a class is not rare
SILENT = -100  # label of boxes that are not asked; cross_entropy leaves it out
WEIGHTS = {"count": 0.05, "deed": 0.3, "colour": 0.3}  # of the three heads; Faster R-CNN's own losses have 1


@dataclass(frozen=True)
class Lesson:
    """One scene as it is kept in memory."""

    jpeg: bytes
    size: tuple[int, int]  # width, height, pixels
    boxes: np.ndarray  # (n, 4) float32 pixels
    labels: np.ndarray  # (n,) int64 from 1; 0 is the background
    deeds: tuple[str, ...]  # of every box; empty: not asked
    colours: tuple[str, ...]


def draw(task: tuple[int, int]) -> Lesson:
    """The scene (seed, index) as the demo would write it."""
    scene = compose(*task)
    pixels, boxes, labels = paint(scene)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=scene.quality)
    deeds, colours = [""] * len(labels), [""] * len(labels)
    for kind in {thing.kind for thing in scene.things}:
        things = [thing for thing in scene.things if thing.kind == kind]
        places = np.flatnonzero(labels == CLASSES.index(kind))
        # Boxes come in the order of things; where one is hidden, which box is whose is not known.
        if len(places) == len(things):
            for place, thing in zip(places, things, strict=True):
                deeds[place], colours[place] = thing.deed, thing.colour
    return Lesson(file.getvalue(), scene.size, boxes, labels + 1, tuple(deeds), tuple(colours))


def words(lessons: list[Lesson]) -> tuple[list[str], list[str]]:
    """All deeds and all colours, sorted."""
    deeds = {deed for lesson in lessons for deed in lesson.deeds} - {""}
    return sorted(deeds), sorted({colour for lesson in lessons for colour in lesson.colours} - {""})


def build_heads(deeds: list[str], colours: list[str]) -> nn.ModuleDict:
    """The three heads on the box head's feature."""
    widths = {"count": COUNTS * (len(CLASSES) + 1), "deed": len(deeds), "colour": len(colours)}
    heads = nn.ModuleDict({name: nn.Linear(FEATURE_WIDTH, width) for name, width in widths.items()})
    nn.init.constant_(heads["count"].bias, -4.0)  # of nearly all classes there is none
    return heads


def read(
    lesson: Lesson, deeds: list[str], colours: list[str], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A scene as (3, h, w) in 0..1, mirrored every second time, a little lighter or darker, and its target."""
    pixels = np.asarray(Image.open(io.BytesIO(lesson.jpeg)), dtype=np.float32)
    boxes = lesson.boxes.copy()
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes[:, [0, 2]] = lesson.size[0] - boxes[:, [2, 0]]
    pixels = np.clip(pixels * np.float32(rng.uniform(0.85, 1.15) / 255), 0, 1)
    target = {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(lesson.labels),
        "deed": torch.tensor([deeds.index(x) if x else SILENT for x in lesson.deeds]),
        "colour": torch.tensor([colours.index(x) if x else SILENT for x in lesson.colours]),
    }
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), target


def batches(lessons: list[Lesson], size: int, rng: np.random.Generator) -> Iterator[list[Lesson]]:
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


def repeat_factors(lessons: list[Lesson]) -> np.ndarray:
    """How often an epoch shows each scene, (scenes,): more often where something rare is seen.

    The square root of COMMON over the share of scenes with the rarest thing in it, 1 at least (Gupta et al.,
    LVIS, 2019, section 4.1).
    """
    share = np.zeros(len(CLASSES) + 1)
    for lesson in lessons:
        share[np.unique(lesson.labels)] += 1 / len(lessons)
    return np.array([max(1.0, np.sqrt(COMMON / share[lesson.labels].min())) for lesson in lessons])


def losses(model: FasterRCNN, heads: nn.ModuleDict, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
    """All seven losses, weighted, so that their sum is the one to minimise."""
    inputs, targets = model.transform(images, targets)
    maps = model.backbone(inputs.tensors.contiguous(memory_format=torch.channels_last))
    proposals, rpn = model.rpn(inputs, maps, targets)
    _, boxes = model.roi_heads(maps, proposals, inputs.image_sizes, targets)
    asked = [_asked(t["boxes"], size) for t, size in zip(targets, inputs.image_sizes, strict=True)]
    features = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, asked, inputs.image_sizes))
    parts = features.split([len(a) for a in asked])  # b of (1 + n, d)
    whole, things = torch.stack([p[0] for p in parts]), torch.cat([p[1:] for p in parts])
    more = {"count": _count_loss(heads["count"](whole).float(), targets)}
    for name in ("deed", "colour"):
        wanted = torch.cat([t[name] for t in targets])
        answers = nn.functional.cross_entropy(heads[name](things).float(), wanted, reduction="sum")
        more[name] = answers / (wanted != SILENT).sum().clamp(min=1)
    return {**rpn, **boxes, **{name: WEIGHTS[name] * loss for name, loss in more.items()}}


def _asked(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole image, and the boxes, each side moved a little, as proposals are."""
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + 0.05 * side * torch.randn_like(boxes).clamp(-2, 2)
    return torch.cat([boxes.new_tensor([[0, 0, size[1], size[0]]]), moved])


def _count_loss(logits: Tensor, targets: list[dict]) -> Tensor:
    logits = logits.unflatten(1, (-1, COUNTS))  # (b, c, 3)
    counts = torch.stack([torch.bincount(t["labels"], minlength=logits.shape[1]) for t in targets])  # (b, c)
    wanted = (counts[:, :, None] > torch.arange(COUNTS)).float()
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(targets)

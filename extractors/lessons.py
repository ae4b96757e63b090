"""What the demo's detector is shown, and what it is asked.

Beside Faster R-CNN's four losses, the class is asked of the true boxes too, and small heads ask the box head's feature
for what a sentence may say and a class cannot: how many there are (of the whole image), what a thing does and the
colour of a shirt (of its box). And the feature is drawn to a code of just that (`Codes`). Heads and codes are thrown
away after training. b images, n boxes of an image, c classes with the background, d feature width.
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

from data.demo import CLASSES, PLACES, compose_scene, render_scene
from data.demo.kinds import KINDS
from extractors.detector import FEATURE_WIDTH

COUNTS = 3  # "one or more", "two or more", "three or more"
REPEAT_THRESHOLD = 0.05  # share of scenes from which a class is not rare
IGNORE_INDEX = -100  # label of boxes that are not asked; cross_entropy leaves it out
WEIGHTS = {"count": 0.05, "name": 0.5, "deed": 0.5, "colour": 0.5, "code": 3.0}  # Faster R-CNN's own losses have 1
JITTER = (0.02, 0.15)  # deviation of the sides of a box asked, of its width and height: proposals are off like that
CODE_ONES = 4  # of the d numbers of a code, for one fact
WHOLE_IMAGE_WEIGHT = 0.2  # what the code of a whole image counts for
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
    deeds, colours = [""] * len(labels), [""] * len(labels)
    for kind in {thing.kind for thing in scene.things}:
        things = [thing for thing in scene.things if thing.kind == kind]
        places = np.flatnonzero(labels == CLASSES.index(kind))
        # Boxes come in the order of things; where one is hidden, which box is whose is not known.
        if len(places) == len(things):
            for place, thing in zip(places, things, strict=True):
                deeds[place], colours[place] = thing.action, thing.colour
    return TrainingScene(file.getvalue(), scene.size, boxes, labels + 1, tuple(deeds), tuple(colours))


def collect_vocabulary(lessons: list[TrainingScene]) -> tuple[list[str], list[str]]:
    """All deeds and all colours, sorted."""
    deeds = {deed for lesson in lessons for deed in lesson.actions} - {""}
    return sorted(deeds), sorted({colour for lesson in lessons for colour in lesson.colors} - {""})


class TargetCodes(nn.Module):
    """A direction of the feature for everything that a sentence may say of a box: its class, deed and colour added up.

    Heads alone leave a deed or a colour a small part of a feature that mostly tells one drawing from the other, and
    what reads the features learns a thousand scenes by heart from the rest (docs/LOG.md). Each fact has a fixed code,
    `ONES` of the d numbers drawn by lot, nearly at right angles to all others and of the same length: an
    error-correcting output code (Dietterich and Bakiri, 1995), as a target for the feature itself. Lots are drawn in
    the order of labels, deeds and colours: training goes on towards the same codes where those words are the same.
    """

    def __init__(self, deeds: int, colours: int) -> None:
        super().__init__()
        widths = {"labels": len(CLASSES) + 1, "deed": deeds, "colour": colours}
        generator, codes = torch.Generator().manual_seed(0), torch.zeros(0, FEATURE_WIDTH)
        while len(codes) < sum(widths.values()):
            lots = torch.zeros(1, FEATURE_WIDTH)
            lots[0, torch.randperm(FEATURE_WIDTH, generator=generator)[:CODE_ONES]] = 1
            if (codes @ lots[0] <= 1).all():  # no two share more than one number
                codes = torch.cat([codes, lots])
        for name, part in zip(widths, codes.split([*widths.values()]), strict=True):
            self.register_buffer(name, part)

    def forward(self, target: dict[str, Tensor]) -> Tensor:
        """A target of `read` -> (1 + n, d) at unit length: of the whole image, that is its place, and of its boxes."""
        boxes = self.labels[target["labels"]]
        for name in ("deed", "colour"):
            asked = target[name] != IGNORE_INDEX
            boxes = boxes + getattr(self, name)[target[name].clamp(min=0)] * asked[:, None]
        place = self.labels[target["labels"][-1:]]  # the last box is the place's
        return nn.functional.normalize(torch.cat([place, boxes]), dim=1)


def build_auxiliary_heads(deeds: list[str], colours: list[str]) -> nn.ModuleDict:
    """The heads on the box head's feature, and the codes that it is drawn to."""
    widths = {"count": COUNTS * (len(CLASSES) + 1), "deed": len(deeds), "colour": len(colours)}
    heads = nn.ModuleDict({name: nn.Linear(FEATURE_WIDTH, width) for name, width in widths.items()})
    nn.init.constant_(heads["count"].bias, -4.0)  # of nearly all classes there is none
    heads["code"] = TargetCodes(len(deeds), len(colours))
    return heads


def load_example(
    lesson: TrainingScene, deeds: list[str], colours: list[str], rng: np.random.Generator
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
        "deed": torch.tensor([deeds.index(x) if x else IGNORE_INDEX for x in lesson.actions]),
        "colour": torch.tensor([colours.index(x) if x else IGNORE_INDEX for x in lesson.colors]),
        "known": torch.tensor([bool(deed) or label in LABELS_WITHOUT_ACTION for deed, label in pairs]),
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


def compute_losses(
    model: FasterRCNN, heads: nn.ModuleDict, images: list[Tensor], targets: list[dict]
) -> dict[str, Tensor]:
    """All losses by name, weighted, so that their sum is the one to minimise."""
    inputs, targets = model.transform(images, targets)
    maps = model.backbone(inputs.tensors.contiguous(memory_format=torch.channels_last))
    proposals, rpn = model.rpn(inputs, maps, targets)
    _, boxes = model.roi_heads(maps, proposals, inputs.image_sizes, targets)
    asked = [_asked(t["boxes"], size) for t, size in zip(targets, inputs.image_sizes, strict=True)]
    features = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, asked, inputs.image_sizes))
    parts = features.split([len(a) for a in asked])  # b of (1 + n, d)
    whole, things = torch.stack([p[0] for p in parts]), torch.cat([p[1:] for p in parts])
    labels = torch.cat([t["labels"] for t in targets])
    more = {
        "count": _count_loss(heads["count"](whole).float(), targets),
        "name": nn.functional.cross_entropy(model.roi_heads.box_predictor.cls_score(things).float(), labels),
        "code": _code_loss(parts, heads["code"], targets),
    }
    for name in ("deed", "colour"):
        wanted = torch.cat([t[name] for t in targets])
        answers = nn.functional.cross_entropy(heads[name](things).float(), wanted, reduction="sum")
        more[name] = answers / (wanted != IGNORE_INDEX).sum().clamp(min=1)
    return {**rpn, **boxes, **{name: WEIGHTS[name] * loss for name, loss in more.items()}}


def _asked(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole image (first), and the boxes, each side moved a little, as proposals are, inside it; size (h, w)"""
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    spread = torch.empty(len(boxes), 1).uniform_(*JITTER)
    first, last = (boxes + spread * side * torch.randn_like(boxes).clamp(-2, 2)).split(2, dim=1)
    edge = boxes.new_tensor([size[1], size[0]])
    first = torch.minimum(first.clamp(min=0), edge - 2)  # two pixels are left of what is nearly nothing
    last = torch.maximum(torch.minimum(last, edge), first + 2)
    return torch.cat([torch.cat([torch.zeros(2), edge])[None], torch.cat([first, last], dim=1)])


def _code_loss(parts: tuple[Tensor, ...], codes: nn.Module, targets: list[dict]) -> Tensor:
    """Mean cosine distance of features, (1 + n, d) an image, from their codes: of boxes of which it is known what they
    do, and, `WHOLE` times, of whole images. A scalar.
    """
    apart = [1 - nn.functional.cosine_similarity(p.float(), codes(t)) for p, t in zip(parts, targets, strict=True)]
    known = torch.cat([t["known"] for t in targets])
    return (
        torch.cat([a[1:] for a in apart])[known].mean() + WHOLE_IMAGE_WEIGHT * torch.stack([a[0] for a in apart]).mean()
    )


def _count_loss(logits: Tensor, targets: list[dict]) -> Tensor:
    logits = logits.unflatten(1, (-1, COUNTS))  # (b, c, 3)
    counts = torch.stack([torch.bincount(t["labels"], minlength=logits.shape[1]) for t in targets])  # (b, c)
    wanted = (counts[:, :, None] > torch.arange(COUNTS)).float()
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(targets)

"""What the demo's detector is shown, and what it is asked.

Beside Faster R-CNN's four losses, the class is asked of the true boxes too, and small heads ask the box head's feature
for what a sentence may say and a class cannot: how many there are (of the whole image), what a thing does and the
color of a shirt (of its box). And the feature is drawn to a code of just that (`Codes`). Heads and codes are thrown
away after training. b images, n boxes of an image, c classes with the background, d feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from data.demo import CLASSES
from extractors.demo_detector.scenes import IGNORE_INDEX
from extractors.regions.demo_network import FEATURE_WIDTH

COUNTS = 3  # "one or more", "two or more", "three or more"
WEIGHTS = {"count": 0.05, "name": 0.5, "action": 0.5, "color": 0.5, "code": 3.0}  # Faster R-CNN's own losses have 1
JITTER = (0.02, 0.15)  # deviation of the sides of a box asked, of its width and height: proposals are off like that
CODE_ONES = 4  # of the d numbers of a code, for one fact
WHOLE_IMAGE_WEIGHT = 0.2  # what the code of a whole image counts for


class TargetCodes(nn.Module):
    """A direction of the feature for everything that a sentence may say of a box: its class, action and color added up.

    Heads alone leave a action or a color a small part of a feature that mostly tells one drawing from the other, and
    a model that reads the features memorizes a thousand scenes from the rest (docs/decisions/001). Each fact has a
    fixed code,
    `ONES` of the d numbers drawn by lot, nearly at right angles to all others and of the same length: an
    error-correcting output code (Dietterich and Bakiri, 1995), as a target for the feature itself. Lots are drawn in
    the order of labels, actions and colors: training goes on towards the same codes where those words are the same.
    """

    def __init__(self, actions: int, colors: int) -> None:
        super().__init__()
        widths = {"labels": len(CLASSES) + 1, "action": actions, "color": colors}
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
        for name in ("action", "color"):
            asked = target[name] != IGNORE_INDEX
            boxes = boxes + getattr(self, name)[target[name].clamp(min=0)] * asked[:, None]
        place = self.labels[target["labels"][-1:]]  # the last box is the place's
        return nn.functional.normalize(torch.cat([place, boxes]), dim=1)


def build_auxiliary_heads(actions: list[str], colors: list[str]) -> nn.ModuleDict:
    """The heads on the box head's feature, and the codes that it is drawn to."""
    widths = {"count": COUNTS * (len(CLASSES) + 1), "action": len(actions), "color": len(colors)}
    heads = nn.ModuleDict({name: nn.Linear(FEATURE_WIDTH, width) for name, width in widths.items()})
    nn.init.constant_(heads["count"].bias, -4.0)  # of nearly all classes there is none
    heads["code"] = TargetCodes(len(actions), len(colors))
    return heads


def compute_losses(
    model: FasterRCNN, heads: nn.ModuleDict, images: list[Tensor], targets: list[dict]
) -> dict[str, Tensor]:
    """All losses by name, weighted, so that their sum is the one to minimize."""
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
    for name in ("action", "color"):
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

"""Losses of the demo detector beyond those of Faster R-CNN; used by its training only.

The class head is also trained on the true boxes. Small auxiliary heads predict from the box head's feature what a
caption may mention in addition to the class. From the whole image they predict how many things of each class there
are, and from the box of a thing its action and shirt color. In addition, the feature is pulled to a code of these facts
(`TargetCodes`). Heads and codes are not saved.
Shapes: b images, n boxes of an image, c classes with the background, d feature size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from data.demo import CLASSES
from extractors.demo_detector.scenes import IGNORE_INDEX
from extractors.regions.demo_network import FEATURE_WIDTH

COUNTS = 3  # "one or more", "two or more", "three or more"
WEIGHTS = {"count": 0.05, "name": 0.5, "action": 0.5, "color": 0.5, "code": 3.0}  # the losses of Faster R-CNN have 1
JITTER = (0.02, 0.15)  # standard deviation of the moved sides of a box, relative to its width and height
CODE_ONES = 4  # of the d numbers of a code, for one fact
WHOLE_IMAGE_WEIGHT = 0.2  # weight of the code loss of whole images


class TargetCodes(nn.Module):
    """Target directions of the feature: the sum of the codes of the class, action and color of a box.

    With heads alone, an action or a color is a small part of a feature that mostly identifies the drawing. The
    retrieval model then memorizes a thousand scenes from the rest of the feature (docs/decisions/001). Each fact has a
    fixed code: `CODE_ONES` of the d numbers, chosen at random. The codes are nearly orthogonal and of equal length,
    like an error-correcting output code (Dietterich and Bakiri, 1995), here as a target of the feature itself. They are
    drawn in the order of labels, actions and colors, so training from existing weights keeps the same codes if these
    words are the same.
    """

    labels: Tensor
    action: Tensor
    color: Tensor

    def __init__(self, num_actions: int, num_colors: int) -> None:
        super().__init__()
        widths = {"labels": len(CLASSES) + 1, "action": num_actions, "color": num_colors}
        generator, codes = torch.Generator().manual_seed(0), torch.zeros(0, FEATURE_WIDTH)
        while len(codes) < sum(widths.values()):
            code = torch.zeros(1, FEATURE_WIDTH)
            code[0, torch.randperm(FEATURE_WIDTH, generator=generator)[:CODE_ONES]] = 1
            if (codes @ code[0] <= 1).all():  # no two codes share more than one position
                codes = torch.cat([codes, code])
        for name, part in zip(widths, codes.split([*widths.values()]), strict=True):
            self.register_buffer(name, part)

    def forward(self, target: dict[str, Tensor]) -> Tensor:
        """Compute the codes of an image.

        Args:
            target: A target of `load_example` with n boxes.

        Returns:
            (1 + n, d) of unit length: of the whole image, which is the code of its place, and of its boxes.
        """
        boxes = self.labels[target["labels"]]  # (n, d)
        for name, codes in (("action", self.action), ("color", self.color)):
            is_known = target[name] != IGNORE_INDEX  # (n,)
            boxes = boxes + codes[target[name].clamp(min=0)] * is_known[:, None]
        scene_code = self.labels[target["labels"][-1:]]  # the last box is that of the place
        return nn.functional.normalize(torch.cat([scene_code, boxes]), dim=1)


def build_auxiliary_heads(actions: list[str], colors: list[str]) -> nn.ModuleDict:
    """Build the heads on the feature of the box head, and the codes under the key "code"."""
    widths = {"count": COUNTS * (len(CLASSES) + 1), "action": len(actions), "color": len(colors)}
    heads = nn.ModuleDict()
    for name, width in widths.items():
        linear = nn.Linear(FEATURE_WIDTH, width)
        if name == "count":
            nn.init.constant_(linear.bias, -4.0)  # an image shows none of most classes
        heads[name] = linear
    heads["code"] = TargetCodes(len(actions), len(colors))
    return heads


def compute_losses(
    model: FasterRCNN, heads: nn.ModuleDict, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Compute all losses of a batch.

    Args:
        model: The detector in training mode.
        heads: Heads of `build_auxiliary_heads`.
        images: b images, (3, h, w) float 0 to 1.
        targets: b targets of `load_example`.

    Returns:
        Weighted scalars by name; their sum is to be minimized.
    """
    inputs, targets = model.transform(images, targets)
    maps = model.backbone(inputs.tensors.contiguous(memory_format=torch.channels_last))
    proposals, rpn_losses = model.rpn(inputs, maps, targets)
    _, box_losses = model.roi_heads(maps, proposals, inputs.image_sizes, targets)
    boxes = [_jitter_boxes(t["boxes"], size) for t, size in zip(targets, inputs.image_sizes, strict=True)]
    features = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, boxes, inputs.image_sizes))
    parts = features.split([len(image_boxes) for image_boxes in boxes])  # b of (1 + n, d)
    image_features, box_features = torch.stack([p[0] for p in parts]), torch.cat([p[1:] for p in parts])
    labels = torch.cat([t["labels"] for t in targets])
    extra_losses = {
        "count": _compute_count_loss(heads["count"](image_features).float(), targets),
        "name": nn.functional.cross_entropy(model.roi_heads.box_predictor.cls_score(box_features).float(), labels),
        "code": _compute_code_loss(parts, heads["code"], targets),
    }
    for name in ("action", "color"):
        classes = torch.cat([t[name] for t in targets])
        loss = nn.functional.cross_entropy(heads[name](box_features).float(), classes, reduction="sum")
        extra_losses[name] = loss / (classes != IGNORE_INDEX).sum().clamp(min=1)
    return {**rpn_losses, **box_losses, **{name: WEIGHTS[name] * loss for name, loss in extra_losses.items()}}


def _jitter_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the whole-image box and the boxes, each side moved a little, as proposals are.

    The boxes stay inside the image.

    Args:
        boxes: (n, 4) float, x1 y1 x2 y2 in pixels.
        size: Height and width of the image, in pixels.

    Returns:
        (1 + n, 4) float.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    std = torch.empty(len(boxes), 1).uniform_(*JITTER)
    first, last = (boxes + std * sides * torch.randn_like(boxes).clamp(-2, 2)).split(2, dim=1)
    edge = boxes.new_tensor([size[1], size[0]])
    first = torch.minimum(first.clamp(min=0), edge - 2)  # a box keeps at least two pixels per side
    last = torch.maximum(torch.minimum(last, edge), first + 2)
    return torch.cat([torch.cat([torch.zeros(2), edge])[None], torch.cat([first, last], dim=1)])


def _compute_code_loss(parts: tuple[Tensor, ...], codes: nn.Module, targets: list[dict[str, Tensor]]) -> Tensor:
    """Compute the mean cosine distance of features from their codes, a scalar.

    Boxes count if their action is known. Whole images are weighted by `WHOLE_IMAGE_WEIGHT`.

    Args:
        parts: Features of each image, (1 + n, d).
        codes: The `TargetCodes`.
        targets: Target of each image.
    """
    distances = [1 - nn.functional.cosine_similarity(p.float(), codes(t)) for p, t in zip(parts, targets, strict=True)]
    known = torch.cat([t["known"] for t in targets])
    box_loss = torch.cat([d[1:] for d in distances])[known].mean()
    return box_loss + WHOLE_IMAGE_WEIGHT * torch.stack([d[0] for d in distances]).mean()


def _compute_count_loss(logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Compute the binary cross-entropy of "at least k things of a class", per image: (b, 3 c) -> scalar."""
    logits = logits.unflatten(1, (-1, COUNTS))  # (b, c, 3)
    counts = torch.stack([torch.bincount(t["labels"], minlength=logits.shape[1]) for t in targets])  # (b, c)
    reached = (counts[:, :, None] > torch.arange(COUNTS)).float()  # (b, c, 3)
    return nn.functional.binary_cross_entropy_with_logits(logits, reached, reduction="sum") / len(targets)

"""Pixels to rows of region features, by one of torchvision's Faster R-CNNs or the demo's.

n proposals, r rows (1 + max_regions at most with the whole image), d feature width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, nms

from extractors.detector import build
from extractors.regions import WHOLE_IMAGE, Prepared, RegionExtractor, Regions
from extractors.state import state_sha256

VERSION = 1  # to be raised when equal settings give other numbers: stores are named by it


class TorchvisionConfig(BaseModel):
    """What is looked for, and how many rows an image gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["torchvision"] = "torchvision"
    model: str = "fasterrcnn_resnet50_fpn"  # a torchvision Faster R-CNN builder, or "demo"
    weights: str = "DEFAULT"  # a torchvision weights name, a .safetensors or .pth file, or "demo"
    max_regions: int = Field(36, ge=1)  # rows, the whole image not counted
    min_score: float = Field(0.0, ge=0, le=1)  # 0: always filled up to max_regions; above: as many rows as reach it
    nms_iou: float = Field(0.5, gt=0, le=1)  # overlap at which the lower score goes
    whole_image: bool = True  # row 0 is the whole image
    min_size: int | None = Field(None, ge=64)  # pixels, short side of the network's input; None: the model's own
    max_size: int | None = Field(None, ge=64)  # pixels, long side at most; None: the model's own
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"


class TorchvisionExtractor(RegionExtractor):
    """A detector with its weights; rows come best score first, the whole image before them."""

    def __init__(self, config: TorchvisionConfig) -> None:
        """Raises ValueError for an unknown model or weights that do not fit, FileNotFoundError."""
        self.config = config
        detector, self.classes = build(config.model, config.weights)
        self._weights_sha256 = state_sha256(detector)
        self._detector = detector.to(config.device, memory_format=torch.channels_last)
        self.dim: int = detector.roi_heads.box_predictor.cls_score.in_features
        if config.min_size:
            detector.transform.min_size = (config.min_size,)
        if config.max_size:
            detector.transform.max_size = config.max_size

    @property
    def fingerprint(self) -> dict:
        """What decides the numbers, for the recipe: the config without path and device, the weights' hash."""
        settings = self.config.model_dump(exclude={"kind", "weights", "device"})
        return {"extractor": "torchvision", "version": VERSION, **settings, "weights_sha256": self._weights_sha256}

    def prepare(self, pixels: np.ndarray) -> Prepared:
        """Normalised and resized as torchvision's own transform does it, `(3, net h, net w)` float32."""
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        height, width = pixels.shape[:2]
        transform = self._detector.transform
        resized, _ = transform.resize(transform.normalize(tensor), None)
        return Prepared(resized, (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[Prepared]) -> list[Regions]:
        """Regions of images whose inputs have one shape."""
        model, config = self._detector, self.config
        net_h, net_w = batch[0].input.shape[1:]
        tensors = model.transform.batch_images([image.input.to(config.device) for image in batch])
        inputs = ImageList(tensors, [(net_h, net_w)] * len(batch))
        with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            maps = model.backbone(inputs.tensors.contiguous(memory_format=torch.channels_last))
            proposals, _ = model.rpn(inputs, maps)
            if config.whole_image:
                whole = proposals[0].new_tensor([[0, 0, net_w, net_h]])
                proposals = [torch.cat([whole, boxes]) for boxes in proposals]
            pooled = model.roi_heads.box_roi_pool(maps, proposals, inputs.image_sizes)
            features = model.roi_heads.box_head(pooled)  # (all proposals, d)
            logits, deltas = model.roi_heads.box_predictor(features)
        counts = [len(boxes) for boxes in proposals]
        decoded = model.roi_heads.box_coder.decode(deltas.float(), proposals)  # (all proposals, classes, 4)
        parts = (x.split(counts) for x in (features.float(), logits.float().softmax(-1), decoded))
        scales = [decoded.new_tensor([image.size[0] / net_w, image.size[1] / net_h] * 2) for image in batch]
        return [
            self._regions(*part, scale, image.size) for *part, scale, image in zip(*parts, scales, batch, strict=True)
        ]

    def _regions(
        self, features: Tensor, probabilities: Tensor, decoded: Tensor, scale: Tensor, size: tuple[int, int]
    ) -> Regions:
        """(n, d), (n, classes), (n, classes, 4) in net pixels; row 0 the whole image if that is wanted."""
        scores, classes = probabilities[:, 1:].max(-1)  # the background is class 0
        classes = classes + 1
        boxes = decoded[torch.arange(len(classes), device=classes.device), classes] * scale
        boxes = clip_boxes_to_image(boxes, (size[1], size[0]))  # (n, 4)
        first = int(self.config.whole_image)
        if first:
            boxes[0] = boxes.new_tensor([0, 0, *size])
            classes[0], scores[0] = WHOLE_IMAGE, 1.0
        keep = select(
            boxes[first:], scores[first:], self.config.max_regions, self.config.nms_iou, self.config.min_score
        )
        rows = torch.cat([torch.arange(first, device=keep.device), keep + first])
        return Regions(
            features=features[rows].half().cpu().numpy(),
            boxes=boxes[rows].cpu().numpy(),
            class_ids=classes[rows].int().cpu().numpy(),
            scores=scores[rows].cpu().numpy(),
            attr_ids=np.full(len(rows), -1, np.int32),
            attr_scores=np.zeros(len(rows), np.float32),
            size=size,
        )


def select(boxes: Tensor, scores: Tensor, limit: int, iou: float, min_score: float = 0.0) -> Tensor:
    """Indices of at most `limit` boxes, best score first: class-agnostic NMS, then the top scores.

    With a `min_score` that is all: as many rows as there are things. Without one, where too few survive, the
    overlap allowed is raised by 0.1 until there are enough (0.3 to 0.9 in airsplay/py-bottom-up-attention,
    demo/detectron2_mscoco_proposal_maxnms.py), so that fixed-size stores fill up with the least redundant boxes.
    boxes (n, 4), scores (n,); returns (up to limit,) int64.
    """
    wanted = min(limit, len(boxes)) if min_score == 0 else 0
    kept = nms(boxes, scores, iou)
    kept = kept[scores[kept] >= min_score]
    while len(kept) < wanted:
        iou += 0.1
        more = nms(boxes, scores, min(iou, 1.0))
        kept = torch.cat([kept, more[~torch.isin(more, kept)]])
    kept = kept[:limit]
    return kept[scores[kept].argsort(descending=True, stable=True)]

"""Pixels to rows of region features, by one of torchvision's Faster R-CNNs or the demo's.

n proposals, r rows (1 + max_regions at most with the whole image), d feature width, c channels of the FPN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, nms

from extractors.configs import TorchvisionConfig
from extractors.detector import build_detector
from extractors.fast import DTYPE_NAMES, choose_dtype, optimize_for_inference, to_cpu, to_device
from extractors.regions import WHOLE_IMAGE, PreprocessedImage, RegionExtractor, Regions
from extractors.state import state_sha256
from extractors.two_stage import roi_align_by_lookup, select_proposals

VERSION = 3  # to be raised when equal settings give other numbers: stores are named by it
GPU_BATCH = 8  # images


class TorchvisionExtractor(RegionExtractor):
    """A detector with its weights; rows come best score first, the whole image before them."""

    def __init__(self, config: TorchvisionConfig) -> None:
        """Raises ValueError for an unknown model or weights that do not fit, FileNotFoundError."""
        self.config = config
        detector, self.classes = build_detector(config.model, config.weights)
        self._weights_sha256 = state_sha256(detector)
        self._dtype = choose_dtype(config.device, config.full_precision)
        if config.full_precision:
            self._detector = detector.to(config.device, memory_format=torch.channels_last)
        else:
            self._detector = optimize_for_inference(detector, self._dtype, config.device)
        tapped = detector.roi_heads.box_predictor.cls_score.in_features
        self.dim: int = tapped if config.feature_layer == "box_head" else detector.backbone.out_channels
        self.batch_size = 1 if torch.device(config.device).type == "cpu" else GPU_BATCH
        if config.min_size:
            detector.transform.min_size = (config.min_size,)
        if config.max_size:
            detector.transform.max_size = config.max_size

    @property
    def recipe(self) -> dict:
        """What decides the numbers, for the recipe: the config without path and device, arithmetic, the weights' hash.

        The arithmetic is what this machine computes in: machines of different abilities never share a store.
        """
        settings = self.config.model_dump(exclude={"kind", "weights", "device"})
        made_by = {"dtype": DTYPE_NAMES[self._dtype], "weights_sha256": self._weights_sha256}
        return {"extractor": "torchvision", "version": VERSION, **settings, **made_by}

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Normalised and resized as torchvision's own transform does it, `(3, net h, net w)` float32, on the device."""
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        height, width = pixels.shape[:2]
        transform = self._detector.transform
        resized, _ = transform.resize(transform.normalize(tensor), None)
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Regions of images whose inputs have one shape."""
        heads, (net_h, net_w) = self._detector.roi_heads, batch[0].input.shape[1:]
        proposals, pooled = self._pooled(batch)
        hidden = heads.box_head(pooled)  # (all proposals, hidden)
        logits, deltas = (x.float() for x in heads.box_predictor(hidden))
        features = (
            hidden if self.config.feature_layer == "box_head" else pooled.float().mean((2, 3))
        )  # (all proposals, d)
        scores, classes = logits.softmax(-1)[:, 1:].max(-1)  # (all proposals,); the background is class 0
        own = torch.arange(len(classes), device=classes.device), classes + 1
        decoded = heads.box_coder.decode(deltas.view(len(classes), -1, 4)[own], proposals)[:, 0]  # (all proposals, 4)
        counts = [len(boxes) for boxes in proposals]
        parts = (x.split(counts) for x in (features, scores, classes + 1, decoded))
        scales = [decoded.new_tensor([image.size[0] / net_w, image.size[1] / net_h] * 2) for image in batch]
        return [
            select_regions(*part, boxes * scale, image.size, self.config)
            for *part, boxes, scale, image in zip(*parts, scales, batch, strict=True)
        ]

    def _pooled(self, batch: list[PreprocessedImage]) -> tuple[list[Tensor], Tensor]:
        """Proposals of each image, (n, 4) in net pixels, the whole image first if wanted; and all their maps."""
        model, net = self._detector, tuple(batch[0].input.shape[1:])
        padded = model.transform.batch_images([image.input for image in batch]).to(self._dtype)
        images = ImageList(padded.contiguous(memory_format=torch.channels_last), [net] * len(batch))
        maps = model.backbone(images.tensors)
        exact = self.config.full_precision
        proposals = model.rpn(images, maps)[0] if exact else select_proposals(model.rpn, [*maps.values()], images)
        if self.config.whole_image:
            whole = proposals[0].new_tensor([[0, 0, net[1], net[0]]])
            proposals = [torch.cat([whole, boxes]) for boxes in proposals]
        align = model.roi_heads.box_roi_pool
        # The padded size, of which the maps are whole fractions: from a thin strip's own torchvision guesses wrong
        # strides, and keeps them for every image that comes after.
        padded_to = tuple(padded.shape[2:])
        pooled = (
            align(maps, proposals, [padded_to]) if exact else roi_align_by_lookup(align, maps, proposals, padded_to)
        )
        return proposals, pooled


def select_regions(
    features: Tensor, scores: Tensor, classes: Tensor, boxes: Tensor, size: tuple[int, int], config: Any
) -> Regions:
    """The rows of one image among its proposals, the whole image first where `config.whole_image` put it there.

    (n, d), (n,), (n,), (n, 4) in pixels; `config` says max_regions, min_score, nms_iou and whole_image.
    """
    boxes, first = clip_boxes_to_image(boxes, (size[1], size[0])), int(config.whole_image)
    if first:
        boxes[0] = boxes.new_tensor([0, 0, *size])
        classes[0], scores[0] = WHOLE_IMAGE, 1.0
    keep = select_boxes(boxes[first:], scores[first:], config.max_regions, config.nms_iou, config.min_score)
    rows = torch.cat([torch.arange(first, device=keep.device), keep + first])
    found = to_cpu([features[rows].half(), boxes[rows], classes[rows].int(), scores[rows]])
    features, boxes, classes, scores = (tensor.numpy() for tensor in found)
    none = np.full(len(boxes), -1, np.int32)
    return Regions(features, boxes, classes, scores, attr_ids=none, attr_scores=np.zeros_like(scores), size=size)


def select_boxes(boxes: Tensor, scores: Tensor, limit: int, iou: float, min_score: float = 0.0) -> Tensor:
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

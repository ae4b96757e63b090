"""Pixels to rows of region features, by one of torchvision's Faster R-CNNs or the demo's.

n proposals, r rows (1 + max_regions at most with the whole image), d feature width, c channels of the FPN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from extractors.config import TorchvisionConfig
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, optimize_for_inference, to_device
from extractors.nn.state_dict import state_sha256
from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions
from extractors.regions.detectors import build_detector
from extractors.regions.fast_faster_rcnn import roi_align_by_lookup, select_proposals
from extractors.regions.selection import select_regions

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

    def _settings_recipe(self) -> dict[str, Any]:
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

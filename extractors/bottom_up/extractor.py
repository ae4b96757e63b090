"""Bottom-up features: 36 regions per image, or 10 to 100; each is a proposal and its pool5 feature.

Built by `extractors.registry`. Shapes: b images, n proposals of an image (at most 300), r regions kept.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from extractors.bottom_up.model import (
    BottomUpRCNN,
    MkldnnConv1x1,
    RoIScores,
    apply_in_chunks,
    pool5_features,
    pool5_features_fast,
)
from extractors.bottom_up.pooling import POOLED, STRIDE, roi_max_pool
from extractors.bottom_up.proposals import apply_deltas, make_anchor_grid, select_proposals
from extractors.bottom_up.selection import select_regions
from extractors.bottom_up.weights import MEAN, load_bottom_up
from extractors.config import BottomUpConfig
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, fold_batch_norms, to_cpu, to_device
from extractors.nn.state_dict import state_sha256
from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions
from extractors.torch_free import network_recipe

VERSION = 2  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
ROI_CHUNK = 24  # RoIs at a time on a CPU: their maps stay in its cache
LOGIT_MARGIN = 0.3  # logits of a confidence: two to four times the largest error of bfloat16 that was measured


class BottomUpExtractor(RegionExtractor):
    """The Visual Genome Faster R-CNN; regions come in the order of Caffe's generate_tsv.py."""

    def __init__(self, config: BottomUpConfig) -> None:
        """Load the weights.

        Raises:
            ValueError: The weights are not those of this model.
            FileNotFoundError: The weights or the vocabulary do not exist.
        """
        self.config = config
        model, self.classes, self.attributes = load_bottom_up(config.weights, config.anchors, config.vocabulary_dir)
        self.dim = model.dim
        self._weights_sha256 = state_sha256(model)
        on_cpu = torch.device(config.device).type == "cpu"
        self._dtype = choose_dtype(config.device, config.full_precision)
        if not on_cpu and not config.full_precision:
            # Eight times finer than bfloat16, as fast, and without overflow: values of pool5 reach only about 35.
            self._dtype = torch.float16
        self.num_loaders = 1 if on_cpu else 8
        # For the proposals whose choice the rounding of bfloat16 might change.
        self._res5_in_float32: nn.Module | None = None
        if self._dtype == torch.bfloat16:
            self._res5_in_float32 = fold_batch_norms(copy.deepcopy(model.res5)).to(memory_format=torch.channels_last)
        optimized = model if config.full_precision else _optimize(model, self._dtype, config.device)
        self._model = optimized.to(config.device)

    def _settings_recipe(self) -> dict[str, Any]:
        numerics = {"dtype": DTYPE_NAMES[self._dtype], "weights_sha256": self._weights_sha256}
        return network_recipe(self.config, "bottom-up", VERSION, ("anchors", "vocabulary_dir"), **numerics)

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Subtract the mean from the BGR pixels and resize them linearly, as cv2.resize does.

        The resizing has no antialiasing.

        Args:
            pixels: (h, w, 3) uint8 RGB.

        Returns:
            (3, network height, network width) float32 on the device.
        """
        height, width = pixels.shape[:2]
        net_w, net_h, scale = self._network_size(width, height)
        bgr = torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1])).float() - torch.tensor(MEAN)
        # torch.nn.functional.interpolate would round the size differently, or compute another scale from it.
        resized = torch.ops.aten.upsample_bilinear2d(bgr.permute(2, 0, 1)[None], [net_h, net_w], False, scale, scale)[0]
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the regions of images whose inputs have the same shape."""
        inputs = torch.stack([image.input for image in batch])  # (b, 3, network height, network width)
        if not self.config.full_precision:
            inputs = inputs.to(memory_format=torch.channels_last)
        maps = self._model.backbone_features(inputs)  # (b, 1024, h, w)
        logits, deltas = self._model.rpn(maps)  # (b, anchors), (b, anchors, 4)
        anchors = make_anchor_grid(self._model.rpn.anchors, *maps.shape[2:])
        net_h, net_w = inputs.shape[2:]
        results = []
        columns = (maps.split(1), logits, deltas, batch)
        for image_maps, image_logits, image_deltas, image in zip(*columns, strict=True):
            scale = self._network_size(*image.size)[2]
            boxes = apply_deltas(anchors, image_deltas, (net_w, net_h))
            rois = select_proposals(image_logits, boxes, scale, self.config.max_proposals)
            results.append(self._make_regions(image_maps, rois, scale, image.size))
        return results

    def _network_size(self, width: int, height: int) -> tuple[int, int, float]:
        return network_input_size(width, height, self.config.min_size, self.config.max_size)

    def _make_regions(self, maps: Tensor, rois: Tensor, scale: float, size: tuple[int, int]) -> Regions:
        """Compute the regions of one image.

        Args:
            maps: (1, 1024, h, w).
            rois: (n, 4) in network pixels.
            scale: Network pixels per pixel of the image.
            size: Width and height of the image, in pixels.
        """
        config, boxes = self.config, rois / scale
        features = self._compute_pool5(maps, rois)  # (n, 2048) float32
        scores = self._model.classify(features)
        keep, uncertain = self._select(boxes, scores)
        if len(uncertain) and self._res5_in_float32 is not None:
            features[uncertain] = self._compute_plain_pool5(self._res5_in_float32, maps, rois[uncertain])
            scores = self._model.classify(features)
            keep, _ = self._select(boxes, scores)
        attributes = None if scores.attributes is None else scores.attributes[keep]
        kept = RoIScores(scores.classes[keep], attributes)
        class_scores, class_ids = kept.classes[:, 1:].max(1)  # (r,)
        boxes = boxes[keep]
        if config.stored_boxes == "regressed":
            boxes = apply_deltas(boxes, self._model.deltas(features[keep], class_ids + 1), size)
        attr_ids, attr_scores = self._best_attributes(kept)
        rows = to_cpu([features[keep].half(), boxes, class_ids.int(), class_scores, attr_ids, attr_scores])
        vectors, corners, ids, probabilities, attribute_ids, attribute_probabilities = (row.numpy() for row in rows)
        return Regions(vectors, corners, ids, probabilities, attribute_ids, attribute_probabilities, size)

    def _select(self, boxes: Tensor, scores: RoIScores) -> tuple[Tensor, Tensor]:
        """Return the rows to keep, and rows whose choice may be wrong due to rounding.

        It runs on the CPU, which is faster at NMS per class.
        """
        config = self.config
        margin = LOGIT_MARGIN if self._res5_in_float32 is not None else 0.0
        keep, uncertain = select_regions(
            boxes.cpu(),
            scores.classes[:, 1:].cpu(),
            config.min_regions,
            config.max_regions,
            config.min_score,
            margin,
        )
        return keep.to(boxes.device), uncertain[:ROI_CHUNK].to(boxes.device)

    def _compute_pool5(self, maps: Tensor, rois: Tensor) -> Tensor:
        """Compute pool5_flat of RoIs: (1, 1024, h, w), (n, 4) in network pixels -> (n, 2048) float32."""
        if self.config.full_precision:
            return self._compute_plain_pool5(self._model.res5, maps, rois)
        size = ROI_CHUNK if maps.device.type == "cpu" else max(1, len(rois))
        return pool5_features_fast(self._model.res5, roi_max_pool(maps.to(self._dtype), rois), size)

    @staticmethod
    def _compute_plain_pool5(res5: nn.Module, maps: Tensor, rois: Tensor) -> Tensor:
        """Compute pool5_flat of RoIs with torchvision's pooling: (1, 1024, h, w), (n, 4) -> (n, 2048)."""
        pooled = roi_pool(maps, [rois], POOLED, 1 / STRIDE)  # (n, 1024, 14, 14)
        return apply_in_chunks(lambda part: pool5_features(res5, part), pooled, ROI_CHUNK)

    @staticmethod
    def _best_attributes(scores: RoIScores) -> tuple[Tensor, Tensor]:
        """Return the best attribute of each region and its probability; -1 and 0 without an attribute head."""
        if scores.attributes is None:
            zeros = torch.zeros(len(scores.classes), device=scores.classes.device)
            return zeros.int() - 1, zeros
        values, ids = scores.attributes[:, 1:].max(1)
        return ids.int(), values


def network_input_size(width: int, height: int, min_size: int = 600, max_size: int = 1000) -> tuple[int, int, float]:
    """Compute the size of the network input as Caffe's _get_image_blob does.

    Args:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        min_size: Short side of the input in pixels, unless the long side would exceed `max_size`.
        max_size: Maximum long side of the input, in pixels.

    Returns:
        Width and height of the input in pixels, and network pixels per pixel of the image.
    """
    scale = min_size / min(width, height)
    if round(scale * max(width, height)) > max_size:
        scale = max_size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale)), scale


def _optimize(model: BottomUpRCNN, dtype: torch.dtype, device: str) -> BottomUpRCNN:
    """Fold batch norms and convert res5 to `dtype`, in place.

    The layers that find and choose boxes stay float32.
    """
    fold_batch_norms(model).to(memory_format=torch.channels_last)
    model.res5.to(dtype)
    if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        for parent in [*model.res2.modules(), *model.res3.modules(), *model.res4.modules(), model.rpn]:
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
                    setattr(parent, name, MkldnnConv1x1(child))
    return model

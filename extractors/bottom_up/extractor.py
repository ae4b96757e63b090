"""Pixels to the features of the bottom-up papers: 36 regions an image, or 10 to 100, each a proposal and its pool5.

n proposals of an image (300 at most), r rows kept.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from extractors.bottom_up.model import (
    DIM,
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

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
ROI_CHUNK = 24  # on a CPU: their maps stay in its cache
LOGIT_MARGIN = 0.3  # logits of confidence: two to four times what bfloat16 was seen to move one by


class BottomUpExtractor(RegionExtractor):
    """The Visual-Genome Faster R-CNN. Rows are in the order of Caffe's generate_tsv.py: as proposed, or best first."""

    def __init__(self, config: BottomUpConfig) -> None:
        """Raises ValueError for weights that are not this model's, FileNotFoundError."""
        self.config = config
        self.dim = DIM
        model, self.classes, self.attributes = load_bottom_up(config.weights, config.anchors, config.vocabulary_dir)
        self._weights_sha256 = state_sha256(model)
        on_cpu = torch.device(config.device).type == "cpu"
        self._dtype = choose_dtype(config.device, config.full_precision)
        if not on_cpu and not config.full_precision:
            self._dtype = torch.float16  # eight times finer than bfloat16, as quick; pool5 goes up to about 35
        self.batch_size = 1 if on_cpu else 8  # images; on a CPU the maps of several leave its caches
        self._res5_in_float32 = None  # for the proposals that rounding might put on the other side of the choice
        if self._dtype == torch.bfloat16:
            self._res5_in_float32 = fold_batch_norms(copy.deepcopy(model.res5)).to(memory_format=torch.channels_last)
        self._model = (model if config.full_precision else _quick(model, self._dtype, config.device)).to(config.device)

    def _settings_recipe(self) -> dict[str, Any]:
        """What decides the numbers, for the recipe: settings, arithmetic and the weights' hash."""
        settings = self.config.model_dump(exclude={"kind", "weights", "anchors", "vocabulary_dir", "device"})
        made_by = {"dtype": DTYPE_NAMES[self._dtype], "weights_sha256": self._weights_sha256}
        return {"extractor": "bottom-up", "version": VERSION, **settings, **made_by}

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """BGR less the mean, then resized as cv2.resize does it: linear, without antialiasing, `(3, net h, net w)`."""
        height, width = pixels.shape[:2]
        net_w, net_h, scale = self._net_size(width, height)
        bgr = torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1])).float() - torch.tensor(MEAN)
        # Torch's functional form would round the size another way or take another scale from it.
        resized = torch.ops.aten.upsample_bilinear2d(bgr.permute(2, 0, 1)[None], [net_h, net_w], False, scale, scale)[0]
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Regions of images whose inputs have one shape."""
        inputs = torch.stack([image.input for image in batch])  # (b, 3, net h, net w)
        if not self.config.full_precision:
            inputs = inputs.to(memory_format=torch.channels_last)
        maps = self._model.backbone_features(inputs)  # (b, 1024, h, w)
        logits, deltas = self._model.rpn(maps)
        cells = make_anchor_grid(self._model.rpn.anchors, *maps.shape[2:])
        net_h, net_w = inputs.shape[2:]
        found = []
        for one, scores, moves, image in zip(maps.split(1), logits, deltas, batch, strict=True):
            scale = self._net_size(*image.size)[2]
            boxes = apply_deltas(cells, moves, (net_w, net_h))
            found.append(
                self._regions(one, select_proposals(scores, boxes, scale, self.config.max_proposals), scale, image.size)
            )
        return found

    def _net_size(self, width: int, height: int) -> tuple[int, int, float]:
        return network_input_size(width, height, self.config.min_size, self.config.max_size)

    def _regions(self, maps: Tensor, rois: Tensor, scale: float, size: tuple[int, int]) -> Regions:
        """(1, 1024, h, w), (n, 4) in net pixels -> the rows that are kept."""
        config, boxes = self.config, rois / scale
        features = self._pool5(maps, rois)  # (n, 2048) float32
        scores = self._model.classify(features)
        keep, unsure = self._select(boxes, scores)
        if len(unsure):
            features[unsure] = self._plain_pool5(self._res5_in_float32, maps, rois[unsure])
            scores = self._model.classify(features)
            keep, _ = self._select(boxes, scores)
        kept = RoIScores(*(x if x is None else x[keep] for x in scores))
        values, classes = kept.classes[:, 1:].max(1)
        boxes = boxes[keep]
        if config.stored_boxes == "regressed":
            boxes = apply_deltas(boxes, self._model.deltas(features[keep], classes + 1), size)
        rows = to_cpu([features[keep].half(), boxes, classes.int(), values, *self._attributes(kept)])
        return Regions(*(x.numpy() for x in rows), size)

    def _select(self, boxes: Tensor, scores: RoIScores) -> tuple[Tensor, Tensor]:
        """Rows to keep, and rows that rounding may have put on the wrong side. An NMS a class is work for a CPU."""
        config = self.config
        limits = config.min_regions, config.max_regions, config.min_score
        margin = LOGIT_MARGIN if self._res5_in_float32 is not None else 0.0
        keep, unsure = select_regions(boxes.cpu(), scores.classes[:, 1:].cpu(), *limits, margin)
        return keep.to(boxes.device), unsure[:ROI_CHUNK].to(boxes.device)

    def _pool5(self, maps: Tensor, rois: Tensor) -> Tensor:
        if self.config.full_precision:
            return self._plain_pool5(self._model.res5, maps, rois)
        size = ROI_CHUNK if maps.device.type == "cpu" else max(1, len(rois))
        return pool5_features_fast(self._model.res5, roi_max_pool(maps.to(self._dtype), rois), size)

    @staticmethod
    def _plain_pool5(res5: nn.Module, maps: Tensor, rois: Tensor) -> Tensor:
        """pool5_flat of RoIs by torchvision's pooling, (n, 2048)."""
        pooled = roi_pool(maps, [rois], POOLED, 1 / STRIDE)
        return apply_in_chunks(lambda part: pool5_features(res5, part), pooled, ROI_CHUNK)

    @staticmethod
    def _attributes(scores: RoIScores) -> tuple[Tensor, Tensor]:
        if scores.attributes is None:
            none = torch.zeros(len(scores.classes), device=scores.classes.device)
            return none.int() - 1, none
        values, ids = scores.attributes[:, 1:].max(1)
        return ids.int(), values


def network_input_size(width: int, height: int, short: int = 600, long: int = 1000) -> tuple[int, int, float]:
    """Width and height of the net's input in pixels, and the scale, as Caffe's _get_image_blob chooses them.

    The short side becomes `short` pixels, unless the long one would pass `long`.
    """
    scale = short / min(width, height)
    if round(scale * max(width, height)) > long:
        scale = long / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale)), scale


def _quick(model: BottomUpRCNN, dtype: torch.dtype, device: str) -> BottomUpRCNN:
    """Batch norms folded, channels-last, res5 in `dtype`. What finds and chooses the boxes stays float32."""
    fold_batch_norms(model).to(memory_format=torch.channels_last)
    model.res5.to(dtype)
    if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        for parent in [*model.res2.modules(), *model.res3.modules(), *model.res4.modules(), model.rpn]:
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
                    setattr(parent, name, MkldnnConv1x1(child))
    return model

"""Region features of torchvision's Faster R-CNNs and of the demo detector; built by `extractors.registry`.

Shapes: b images, n proposals of an image, p proposals of all images, d feature size, c channels of the FPN.
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
from extractors.torch_free import network_recipe

VERSION = 3  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
GPU_LOADERS = 8


class TorchvisionExtractor(RegionExtractor):
    """A Faster R-CNN of torchvision; regions come best score first, after the whole-image region."""

    def __init__(self, config: TorchvisionConfig) -> None:
        """Build the detector and load its weights.

        Raises:
            ValueError: The model is unknown, or the weights do not fit it.
            FileNotFoundError: The weights do not exist.
        """
        self.config = config
        detector, self.classes = build_detector(config.model, config.weights)
        self._weights_sha256 = state_sha256(detector)
        self._dtype = choose_dtype(config.device, config.full_precision)
        if config.full_precision:
            self._detector = detector.to(config.device, memory_format=torch.channels_last)
        else:
            self._detector = optimize_for_inference(detector, self._dtype, config.device)
        head_dim = detector.roi_heads.box_predictor.cls_score.in_features
        self.dim = head_dim if config.feature_layer == "box_head" else detector.backbone.out_channels
        self.num_loaders = 1 if torch.device(config.device).type == "cpu" else GPU_LOADERS
        if config.min_size:
            detector.transform.min_size = (config.min_size,)
        if config.max_size:
            detector.transform.max_size = config.max_size

    def _settings_recipe(self) -> dict[str, Any]:
        """Return the settings, the dtype and the hash of the weights.

        The dtype depends on the machine, so machines with different abilities never share a store.
        """
        numerics = {"dtype": DTYPE_NAMES[self._dtype], "weights_sha256": self._weights_sha256}
        return network_recipe(self.config, "torchvision", VERSION, **numerics)

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Normalize and resize an (h, w, 3) uint8 RGB image as torchvision's transform does it.

        Returns:
            (3, network height, network width) float32 on the device.
        """
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (3, h, w)
        height, width = pixels.shape[:2]
        transform = self._detector.transform
        resized, _ = transform.resize(transform.normalize(tensor), None)
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the regions of images whose inputs have the same shape."""
        heads, (net_h, net_w) = self._detector.roi_heads, batch[0].input.shape[1:]
        proposals, pooled = self._pool_proposals(batch)
        hidden = heads.box_head(pooled)  # (p, hidden)
        logits, deltas = (x.float() for x in heads.box_predictor(hidden))  # (p, classes), (p, 4 classes)
        features = hidden if self.config.feature_layer == "box_head" else pooled.float().mean((2, 3))  # (p, d)
        scores, classes = logits.softmax(-1)[:, 1:].max(-1)  # (p,); class 0 is the background
        best = torch.arange(len(classes), device=classes.device), classes + 1
        boxes = heads.box_coder.decode(deltas.view(len(classes), -1, 4)[best], proposals)[:, 0]  # (p, 4)
        counts = [len(image_boxes) for image_boxes in proposals]
        scales = [boxes.new_tensor([image.size[0] / net_w, image.size[1] / net_h] * 2) for image in batch]
        columns = (x.split(counts) for x in (features, scores, classes + 1, boxes))
        return [
            select_regions(f, s, c, net_boxes * scale, image.size, self.config)
            for f, s, c, net_boxes, scale, image in zip(*columns, scales, batch, strict=True)
        ]

    def _pool_proposals(self, batch: list[PreprocessedImage]) -> tuple[list[Tensor], Tensor]:
        """Return the proposals of each image and the pooled maps of all of them.

        Returns:
            One (n, 4) tensor per image in network pixels, with the whole image first if `whole_image` is set; and the
            pooled maps, (p, c, k, k).
        """
        model, net = self._detector, (batch[0].input.shape[1], batch[0].input.shape[2])
        padded = model.transform.batch_images([image.input for image in batch]).to(self._dtype)  # (b, 3, h, w)
        images = ImageList(padded.contiguous(memory_format=torch.channels_last), [net] * len(batch))
        maps = model.backbone(images.tensors)
        exact = self.config.full_precision
        proposals = model.rpn(images, maps)[0] if exact else select_proposals(model.rpn, [*maps.values()], images)
        if self.config.whole_image:
            image_box = proposals[0].new_tensor([[0, 0, net[1], net[0]]])
            proposals = [torch.cat([image_box, boxes]) for boxes in proposals]
        align = model.roi_heads.box_roi_pool
        # The padded size is a multiple of the map sizes. From the size of a thin image, torchvision computes wrong
        # strides, and it keeps them for all later images.
        padded_size = padded.shape[2], padded.shape[3]
        if exact:
            return proposals, align(maps, proposals, [padded_size])
        return proposals, roi_align_by_lookup(align, maps, proposals, padded_size)

"""Pixels to rows of region features, by any Faster R-CNN of detectron2; imported only when one is asked for.

n proposals, r rows (1 + max_regions at most with the whole image), d feature width, k classes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.io import digest
from extractors.config import Detectron2Config
from extractors.nn.inference import choose_dtype, to_device
from extractors.nn.state_dict import load_state_dict_file, load_state_dict_strict, state_sha256
from extractors.regions.base import PreprocessedImage, RegionExtractor, Regions
from extractors.regions.selection import select_regions

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
INSTALL_HINT = (
    "the kind detectron2 needs the package detectron2, which is in no package index: install it from its repository "
    "(python -m pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2)"
)


class Detectron2Extractor(RegionExtractor):
    """A detector with its weights, in float32; the feature is what its box head gives its class scores.

    That is the last fully connected layer of an FPN model (d = 1024), the averaged res5 of a C4 model (d = 2048).
    """

    def __init__(self, config: Detectron2Config) -> None:
        """Raises ImportError without detectron2, ValueError for cascades and misfits, FileNotFoundError."""
        self.config = config
        cfg = _read_config(config)
        from detectron2.data import transforms
        from detectron2.modeling import build_model

        choose_dtype(config.device, exact=True)
        self._settings = digest(cfg.dump())
        cfg.MODEL.DEVICE = config.device
        self._model = build_model(cfg).eval()
        heads = getattr(self._model, "roi_heads", None)
        if not hasattr(heads, "box_predictor") or isinstance(heads.box_predictor, torch.nn.ModuleList):
            raise ValueError(f"{config.model} has no single box head ({type(heads).__name__}): use a Faster R-CNN")
        if getattr(heads.box_predictor, "use_sigmoid_ce", False):
            raise ValueError(f"{config.model} scores classes by sigmoids (USE_SIGMOID_CE); softmax alone is read here")
        _load_weights(self._model, config.weights)
        # Anchors and means are buffers that a state dict leaves out, and decide numbers as weights do.
        unlisted = {k: v for k, v in self._model.named_buffers() if k not in self._model.state_dict()}
        self._weights_sha256 = state_sha256(self._model, unlisted)
        self._resize = transforms.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.dim = heads.box_predictor.cls_score.in_features
        self.classes = _class_names(cfg)

    def _settings_recipe(self) -> dict[str, Any]:
        """What decides the numbers, for the recipe: settings, detectron2's own, and the weights' hash."""
        settings = self.config.model_dump(exclude={"kind", "model", "weights", "device"})
        made_by = {"settings": self._settings, "weights_sha256": self._weights_sha256}
        return {"extractor": "detectron2", "version": VERSION, **settings, **made_by}

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Resized by detectron2's own augmentation, less the mean, `(3, net h, net w)` float32."""
        height, width = pixels.shape[:2]
        if self._model.input_format == "BGR":
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        mean, deviation = self._model.pixel_mean.cpu(), self._model.pixel_std.cpu()
        return PreprocessedImage(to_device((tensor - mean) / deviation, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Regions of images whose inputs have one shape."""
        from detectron2.structures import ImageList

        net_h, net_w = batch[0].input.shape[1:]
        divisor = self._model.backbone.size_divisibility
        images = ImageList.from_tensors([image.input for image in batch], divisor)
        maps = self._model.backbone(images.tensor)
        found, _ = self._model.proposal_generator(images, maps, None)
        proposals = [x.proposal_boxes.tensor for x in found]  # each (n, 4), net pixels
        if self.config.whole_image:
            whole = proposals[0].new_tensor([[0, 0, net_w, net_h]])
            proposals = [torch.cat([whole, boxes]) for boxes in proposals]
        features = self._tapped(maps, proposals)  # (all proposals, d)
        parts = (x.split([len(boxes) for boxes in proposals]) for x in (features, *self._scored(features, proposals)))
        scales = [features.new_tensor([image.size[0] / net_w, image.size[1] / net_h] * 2) for image in batch]
        return [
            select_regions(*part, boxes * scale, image.size, self.config)
            for *part, boxes, scale, image in zip(*parts, scales, batch, strict=True)
        ]

    def _tapped(self, maps: dict[str, Tensor], proposals: list[Tensor]) -> Tensor:
        """What the box head makes of the proposals, (n, d)."""
        from detectron2.structures import Boxes

        heads, boxes = self._model.roi_heads, [Boxes(x) for x in proposals]
        if hasattr(heads, "box_pooler"):  # StandardROIHeads: FPN and DC5 models
            return heads.box_head(heads.box_pooler([maps[name] for name in heads.box_in_features], boxes))
        return heads._shared_roi_transform([maps[name] for name in heads.in_features], boxes).mean((2, 3))

    def _scored(self, features: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Best score, its class and its box of each proposal: (n,), (n,), (n, 4) in net pixels."""
        predictor = self._model.roi_heads.box_predictor
        logits, deltas = predictor(features)
        scores, classes = logits.softmax(1)[:, :-1].max(1)  # the background is last
        moved = predictor.box2box_transform.apply_deltas(deltas, torch.cat(proposals)).unflatten(1, (-1, 4))
        own = classes if moved.shape[1] > 1 else torch.zeros_like(classes)  # some models move every class alike
        return scores, classes, moved[torch.arange(len(classes), device=own.device), own]


def find_config_file(model: str) -> Path:
    """The .yaml of settings that a config's `model` names. Raises ImportError without detectron2, FileNotFoundError."""
    try:
        import detectron2
    except ImportError as error:
        raise ImportError(f"{INSTALL_HINT}. Python says: {error}") from error
    for path in (Path(model), Path(detectron2.__file__).parent / "model_zoo" / "configs" / model):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no settings {model!r}: give a .yaml file, or a name of detectron2's model zoo")


def _read_config(config: Detectron2Config) -> Any:
    """detectron2's settings, read without running what a file may say."""
    path = find_config_file(config.model)
    from detectron2.config import get_cfg
    from yaml import YAMLError

    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (YAMLError, KeyError, AssertionError) as error:
        raise ValueError(f"{path} cannot be read as settings of detectron2 without running it: {error}") from error
    cfg.MODEL.DEVICE = "cpu"  # not the config's: the settings name the store, and the device decides no number
    cfg.MODEL.WEIGHTS = ""  # they are read by `extractors.state`, which runs nothing of theirs
    return cfg


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Fit a state dict; anchors and means that older versions stored are honoured, though the model has no such key.

    detectron2 itself ignores stored anchors since 2021: a model trained with others than its settings say would then
    give other regions without an error.
    """
    state, _ = load_state_dict_file(path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for key in [k for k in state if re.search(r"anchor_generator\.cell_anchors\.\d+$|^pixel_(mean|std)$", k)]:
        buffer = dict(model.named_buffers()).get(key)
        stored = state.pop(key)
        if buffer is None or buffer.numel() != stored.numel():
            raise ValueError(f"weights {path}: {key!r} is {tuple(stored.shape)}, which does not fit the settings")
        buffer.copy_(stored.view_as(buffer))
    load_state_dict_strict(model, state, str(path))


def _class_names(cfg: Any) -> tuple[str, ...]:
    """Names of the dataset that the settings name, if this detectron2 knows them all; else ()."""
    from detectron2.data import MetadataCatalog

    known = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") if cfg.DATASETS.TRAIN else None
    return tuple(known) if known and len(known) == cfg.MODEL.ROI_HEADS.NUM_CLASSES else ()

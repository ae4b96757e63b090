"""Region features of detectron2's Faster R-CNNs; built by `extractors.registry`, and the only file for detectron2.

Shapes: n proposals of an image, p proposals of all images, d feature size, k classes.
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
from extractors.torch_free import network_recipe

VERSION = 2  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
INSTALL_HINT = (
    "The extractor kind detectron2 needs the package detectron2, which is in no package index. Install it from its "
    "repository: `python -m pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2`"
)
STORED_BUFFERS = r"anchor_generator\.cell_anchors\.\d+$|^pixel_(mean|std)$"  # in files of older versions of detectron2


class Detectron2Extractor(RegionExtractor):
    """A Faster R-CNN of detectron2 in float32; the feature is the input of the class scores.

    It is the last fully connected layer of an FPN model (d = 1024), or the averaged res5 of a C4 model (d = 2048).
    """

    def __init__(self, config: Detectron2Config) -> None:
        """Build the model and load its weights.

        Raises:
            ImportError: detectron2 is not installed.
            ValueError: The model has no single softmax box head, or the weights do not fit.
            FileNotFoundError: The settings or the weights do not exist.
        """
        self.config = config
        cfg = _read_config(config)
        from detectron2.data import transforms
        from detectron2.modeling import build_model

        choose_dtype(config.device, full_precision=True)
        self._settings = digest(cfg.dump())
        cfg.MODEL.DEVICE = config.device
        self._model: Any = build_model(cfg).eval()
        heads: Any = getattr(self._model, "roi_heads", None)
        if not hasattr(heads, "box_predictor") or isinstance(heads.box_predictor, torch.nn.ModuleList):
            raise ValueError(
                f"{config.model} has no single box head ({type(heads).__name__}). Set `model` to a Faster R-CNN."
            )
        if getattr(heads.box_predictor, "use_sigmoid_ce", False):
            raise ValueError(
                f"{config.model} scores classes by sigmoids (USE_SIGMOID_CE), but only softmax is supported. "
                "Set `model` to another Faster R-CNN."
            )
        _load_weights(self._model, config.weights)
        # Anchors and means determine the numbers as weights do, but they are buffers that the state dict omits.
        unlisted = {k: v for k, v in self._model.named_buffers() if k not in self._model.state_dict()}
        self._weights_sha256 = state_sha256(self._model, unlisted)
        self._resize = transforms.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.dim = heads.box_predictor.cls_score.in_features
        self.classes = _find_class_names(cfg)

    def _settings_recipe(self) -> dict[str, Any]:
        numerics = {"settings": self._settings, "weights_sha256": self._weights_sha256}
        return network_recipe(self.config, "detectron2", VERSION, ("model",), **numerics)

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Resize an (h, w, 3) uint8 RGB image by detectron2's augmentation and normalize it.

        Returns:
            (3, network height, network width) float32 on the device.
        """
        height, width = pixels.shape[:2]
        if self._model.input_format == "BGR":
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        mean, std = self._model.pixel_mean.cpu(), self._model.pixel_std.cpu()
        return PreprocessedImage(to_device((tensor - mean) / std, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the regions of images whose inputs have the same shape."""
        from detectron2.structures import ImageList

        net_h, net_w = batch[0].input.shape[1:]
        divisor = self._model.backbone.size_divisibility
        images = ImageList.from_tensors([image.input for image in batch], divisor)
        maps = self._model.backbone(images.tensor)
        instances, _ = self._model.proposal_generator(images, maps, None)
        proposals = [x.proposal_boxes.tensor for x in instances]  # (n, 4) each, network pixels
        if self.config.whole_image:
            image_box = proposals[0].new_tensor([[0, 0, net_w, net_h]])
            proposals = [torch.cat([image_box, boxes]) for boxes in proposals]
        features = self._compute_features(maps, proposals)  # (p, d)
        counts = [len(boxes) for boxes in proposals]
        scales = [features.new_tensor([image.size[0] / net_w, image.size[1] / net_h] * 2) for image in batch]
        columns = (x.split(counts) for x in (features, *self._classify(features, proposals)))
        return [
            select_regions(f, s, c, net_boxes * scale, image.size, self.config)
            for f, s, c, net_boxes, scale, image in zip(*columns, scales, batch, strict=True)
        ]

    def _compute_features(self, maps: dict[str, Tensor], proposals: list[Tensor]) -> Tensor:
        """Return the box head's features of all proposals, (p, d)."""
        from detectron2.structures import Boxes

        heads, boxes = self._model.roi_heads, [Boxes(x) for x in proposals]
        if hasattr(heads, "box_pooler"):  # StandardROIHeads: FPN and DC5 models
            return heads.box_head(heads.box_pooler([maps[name] for name in heads.box_in_features], boxes))
        return heads._shared_roi_transform([maps[name] for name in heads.in_features], boxes).mean((2, 3))

    def _classify(self, features: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best score, its class and its box of each proposal: (p,), (p,), (p, 4) in network pixels."""
        predictor = self._model.roi_heads.box_predictor
        logits, deltas = predictor(features)
        scores, classes = logits.softmax(1)[:, :-1].max(1)  # the background is last
        boxes = predictor.box2box_transform.apply_deltas(deltas, torch.cat(proposals)).unflatten(1, (-1, 4))
        # A class-agnostic model predicts one box per proposal: (p, 1, 4) instead of (p, k, 4).
        box_index = classes if boxes.shape[1] > 1 else torch.zeros_like(classes)
        return scores, classes, boxes[torch.arange(len(classes), device=classes.device), box_index]


def find_config_file(model: str) -> Path:
    """Find the .yaml file of settings that the `model` of a configuration names.

    Raises:
        ImportError: detectron2 is not installed.
        FileNotFoundError: The name is neither a file nor in the model zoo.
    """
    try:
        import detectron2
    except ImportError as error:
        raise ImportError(f"{INSTALL_HINT}. Python reports: {error}") from error
    for path in (Path(model), Path(detectron2.__file__).parent / "model_zoo" / "configs" / model):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"There are no settings {model!r}. Set `model` to a .yaml file, or to a name of detectron2's model zoo."
    )


def _read_config(config: Detectron2Config) -> Any:
    """Read detectron2's settings without running Python tags of the .yaml file."""
    path = find_config_file(config.model)
    from detectron2.config import get_cfg
    from yaml import YAMLError  # lazy: detectron2 brings it

    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (YAMLError, KeyError, AssertionError) as error:
        raise ValueError(
            f"{path} cannot be read as settings of detectron2 without running code in it: {error}. Pass another file."
        ) from error
    cfg.MODEL.DEVICE = "cpu"  # the digest of these settings names the store; the recipe has the device already
    cfg.MODEL.WEIGHTS = ""  # `load_state_dict_file` reads them instead: it runs no pickled code
    return cfg


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a state dict.

    It may have anchors and means, which older versions stored. The model has no such keys.

    detectron2 ignores stored anchors since 2021. A model that was trained with other anchors than those in its settings
    would then give other regions without an error.
    """
    state, _ = load_state_dict_file(path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for key in [k for k in state if re.search(STORED_BUFFERS, k)]:
        buffer = dict(model.named_buffers()).get(key)
        stored = state.pop(key)
        if buffer is None or buffer.numel() != stored.numel():
            raise ValueError(
                f"The weights {path} do not fit the settings: {key!r} is {tuple(stored.shape)}. Set `model` to the "
                "settings that they were trained with."
            )
        buffer.copy_(stored.view_as(buffer))
    load_state_dict_strict(model, state, str(path))


def _find_class_names(cfg: Any) -> tuple[str, ...]:
    """Return the class names of the dataset in the settings, or ().

    They are () unless the installed detectron2 knows all of them.
    """
    from detectron2.data import MetadataCatalog

    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") if cfg.DATASETS.TRAIN else None
    return tuple(names) if names and len(names) == cfg.MODEL.ROI_HEADS.NUM_CLASSES else ()

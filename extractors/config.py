"""Settings of the region extractors and of the text extractor; read by `pipeline/plans/plan.py`.

All of them are in this light module, so that a plan is read without torchvision and transformers, which take seconds to
import.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from data.config import NameOrPath, PlanPath, SettingsTable

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")  # of weights files; other values are published names
Anchors = Literal["caffe", "detectron2"]
GridSize = Annotated[int, Field(ge=1, le=64)]


class _NetworkConfig(SettingsTable):
    """Settings that the extractors share."""

    full_precision: bool = False
    """Whether to compute in float32, which gives the same numbers on every machine; false uses half precision where the
    machine supports it."""
    device: str = "cpu"
    """Device of the network: "cpu", "cuda" or "cuda:1"."""


class TorchvisionConfig(_NetworkConfig):
    """Region features of a Faster R-CNN of torchvision, or of the demo detector."""

    kind: Literal["torchvision"] = "torchvision"
    """Name of this kind of extractor."""
    model: str = "fasterrcnn_resnet50_fpn"
    """Name of a torchvision builder of a Faster R-CNN, or "demo"."""
    weights: NameOrPath = "DEFAULT"
    """Name of weights that torchvision publishes, path of a weights file (.safetensors, .pth, .pt, .bin or .pkl), or
    "demo"."""
    max_regions: int = Field(36, ge=1)
    """Maximum number of regions per image, not counting the whole-image region."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Minimum class score of a region; 0 always fills up to `max_regions`."""
    nms_iou: float = Field(0.5, gt=0, le=1)
    """Intersection over union above which only the region with the higher score is kept."""
    whole_image: bool = True
    """Whether row 0 is the whole-image region."""
    min_size: int | None = Field(None, ge=64)
    """Short side of the network input, in pixels; None uses the size of the model."""
    max_size: int | None = Field(None, ge=64)
    """Maximum long side of the network input, in pixels; None uses the size of the model."""
    feature_layer: Literal["box_head", "pooled"] = "box_head"
    """Layer of the features: "box_head" is the input of the class scores (1,024 values in torchvision's models, 256 in
    the demo detector); "pooled" is the average of the RoI-pooled FPN map (256 values, 96 in the demo detector)."""


class GridConfig(_NetworkConfig):
    """Grid features: the cells of feature maps of a backbone of timm, convolutional or ViT."""

    kind: Literal["grid"] = "grid"
    """Name of this kind of extractor."""
    model: str = "resnet50"
    """Name of a model of timm, such as "convnext_tiny" or "vit_small_patch16_224.augreg_in1k"."""
    weights: NameOrPath = "DEFAULT"
    """"DEFAULT" for the weights that timm publishes under the name of the model, "photos" for those of
    tf_efficientnet_lite2 in the package of the extra `photos`, or path of a weights file (.safetensors, .pth, .pt, .bin
    or .pkl)."""
    layer: str | Annotated[tuple[str, ...], Field(min_length=1)] = "layer4"
    """Name of the module whose output is used, such as "layer4", "blocks.6" or "norm"; the features of several modules
    stand side by side in one row."""
    grid_size: GridSize | Annotated[tuple[GridSize, ...], Field(min_length=1)] = 7
    """Number of rows and of columns of the grid; several numbers are a pyramid of grids, whose cells follow one
    another."""
    normalize: bool = False
    """Whether the features of each layer of a row are scaled to unit length."""
    whole_image: bool = False
    """Whether row 0 is the whole-image region, which is the average of the map."""
    fit: Literal["squash", "short side", "center crop"] = "squash"
    """How an image becomes a network input: resized to a square; resized to a short side of `image_size`, with a long
    side of at most four times that; or resized and cropped to the central square, as timm evaluates the model."""
    image_size: int | None = Field(None, ge=32, le=2048)
    """Side of the square network input, or its short side, in pixels; None uses the size of the model."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of their features."""
        return (self.layer,) if isinstance(self.layer, str) else self.layer

    @property
    def grid_sizes(self) -> tuple[int, ...]:
        """Sizes of the grids, in the order of their cells."""
        return (self.grid_size,) if isinstance(self.grid_size, int) else self.grid_size


class BottomUpConfig(_NetworkConfig):
    """Bottom-up features of the Visual Genome model: 36 regions per image, or 10 to 100."""

    kind: Literal["bottom-up"] = "bottom-up"
    """Name of this kind of extractor."""
    weights: PlanPath
    """Path of the weights: a .safetensors file of `tern weights convert`, or a .pkl, .pth or .bin file of a port."""
    anchors: Anchors | None = None
    """Anchors of a port's file that does not contain any: "caffe" or "detectron2"; None if the file contains them."""
    vocabulary_dir: PlanPath | None = None
    """Folder with objects_vocab.txt and attributes_vocab.txt; None uses the names in the weights file."""
    min_regions: int = Field(36, ge=1, le=300)
    """Minimum number of regions per image; an image with fewer proposals gives fewer."""
    max_regions: int = Field(36, ge=1, le=300)
    """Maximum number of regions per image."""
    min_score: float = Field(0.2, gt=0, le=1)
    """Minimum confidence of a region, before `min_regions` and `max_regions` apply."""
    stored_boxes: Literal["proposals", "regressed"] = "proposals"
    """Boxes that are stored with the features: the proposals that the features come from, or the boxes that the class
    head predicts from them."""
    min_size: int = Field(600, ge=64, le=4000)
    """Short side of the network input, in pixels."""
    max_size: int = Field(1000, ge=256, le=4000)
    """Maximum long side of the network input, in pixels."""
    max_proposals: int = Field(300, ge=1, le=6000)
    """Maximum number of proposals per image; the original model uses 300, fewer cost less time."""

    @model_validator(mode="after")
    def _check_order(self) -> BottomUpConfig:
        if self.min_regions > self.max_regions:
            raise ValueError(
                f"min_regions {self.min_regions} is above max_regions {self.max_regions}. Change one of them."
            )
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}. Change one of them.")
        return self


class Detectron2Config(SettingsTable):
    """Region features of a Faster R-CNN of detectron2."""

    kind: Literal["detectron2"] = "detectron2"
    """Name of this kind of extractor."""
    model: NameOrPath
    """Path of a .yaml file, or a name of detectron2's model zoo such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml."""
    weights: PlanPath
    """Path of a .pkl, .pth or .safetensors file with detectron2's parameter names."""
    max_regions: int = Field(36, ge=1)
    """Maximum number of regions per image, not counting the whole-image region."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Minimum class score of a region; 0 always fills up to `max_regions`."""
    nms_iou: float = Field(0.5, gt=0, le=1)
    """Intersection over union above which only the region with the higher score is kept."""
    whole_image: bool = True
    """Whether row 0 is the whole-image region."""
    device: str = "cpu"
    """Device of the network: "cpu", "cuda" or "cuda:1"."""


class TextConfig(SettingsTable):
    """Token features of a BERT-like model of transformers."""

    model: NameOrPath = "bert-base-uncased"
    """Name on the Hugging Face hub, path of a folder, or "minilm" for the copy in an installed package."""
    layer: int | Literal["mean-last-4"] | Annotated[tuple[int, ...], Field(min_length=2, max_length=16)] = -1
    """Hidden state that is stored: -1 for the last layer, 0 for the embeddings, k for the k-th layer, "mean-last-4" for
    the mean of the last four layers (table 7 of the BERT paper sums them; the mean keeps the scale of a layer), or
    several numbers such as [0, 2, 4, -1], whose features are placed side by side: early layers know the single word,
    the last one knows the sentence."""
    max_tokens: int = Field(64, ge=3)
    """Maximum number of tokens of a caption, including [CLS] and [SEP]; longer captions are truncated."""
    batch_size: int | None = Field(None, ge=1)
    """Number of captions of one length per forward pass; None is 4 on a CPU and 64 on a GPU. It is part of the name of
    the store, because the last bits of the features depend on it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the matrix products; bfloat16 is 2.8 times as fast on processors that support it."""
    device: str = "cpu"
    """Device of the network: "cpu", "cuda" or "cuda:1"."""


def _find_kind(value: Any) -> Any:
    """Return the `kind` of a configuration or table of settings; without one, "torchvision"."""
    if isinstance(value, dict):
        return value.get("kind", TorchvisionConfig.model_fields["kind"].default)
    return getattr(value, "kind", None)


RegionsConfig = Annotated[
    Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[GridConfig, Tag("grid")]
    | Annotated[BottomUpConfig, Tag("bottom-up")]
    | Annotated[Detectron2Config, Tag("detectron2")],
    Discriminator(_find_kind),
]
"""Settings of a region extractor, chosen by `kind`. A new kind also needs a case in `extractors/registry.py`."""

REGION_CONFIGS: tuple[type[BaseModel], ...] = (TorchvisionConfig, GridConfig, BottomUpConfig, Detectron2Config)
"""The classes of `RegionsConfig`."""

MACHINE_KEYS = ("device", "dtype", "runtime", "full_precision", "batch_size")
"""Keys of a recipe, and settings of an extractor, that only the machine decides or that only round differently."""


def machine_independent(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of an extractor without what only the machine decides or what only rounds differently.

    Two extractors give a model the same features, apart from rounding, if these recipes are equal.

    Args:
        recipe: Recipe of any extractor, or of a store.

    Returns:
        The recipe as JSON has it: a recipe that was read from a file has lists in the place of tuples.
    """
    plain: dict[str, Any] = json.loads(json.dumps(recipe))
    return {key: value for key, value in plain.items() if key not in MACHINE_KEYS}

"""What a plan may say of the extractors: a config a kind of region extractor, and the text's.

They stand here and not beside what they set up, so that a plan is read without torchvision and transformers, whose
imports take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Anchors = Literal["caffe", "detectron2"]


class TorchvisionConfig(BaseModel):
    """What is looked for, and how many rows an image gives.

    With `tap` "box_head" a feature is what the class scores are made of (d = 1024 in torchvision's, 256 in the demo's);
    with "pooled" the average over the RoI-pooled map of the FPN (d = 256, 96 in the demo's).
    """

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
    feature_layer: Literal["box_head", "pooled"] = (
        "box_head"  # the feature: of the box head's last layer, or the pooled map
    )
    full_precision: bool = (
        False  # true: plain float32, the same everywhere; false: half precision where the machine has it
    )
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"


class GridConfig(BaseModel):
    """Which map of which backbone, and how finely it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["grid"] = "grid"
    model: str = "resnet50"  # a torchvision classification builder
    weights: str = "DEFAULT"  # a torchvision weights name, or a .safetensors or .pth file of the whole model
    layer: str = "layer4"  # the child of the model whose map is taken; "features" in MobileNets and EfficientNets
    max_grid_size: int | None = Field(
        7, ge=1, le=64
    )  # rows and columns at most, averaged; None: every position of the map
    whole_image: bool = False  # row 0 is the whole image, the average of the map
    min_size: int = Field(600, ge=64)  # pixels, short side of the network's input
    max_size: int = Field(1000, ge=64)  # pixels, long side at most
    full_precision: bool = (
        False  # true: plain float32, the same everywhere; false: half precision where the machine has it
    )
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"


class BottomUpConfig(BaseModel):
    """Whose weights, and how many rows an image gives: the fixed 36 of the field, or an adaptive 10 to 100."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bottom-up"] = "bottom-up"
    weights: Path  # a .safetensors of `tern weights convert`, or a port's .pkl, .pth or .bin
    anchors: Anchors | None = None  # of a port's file that holds none
    vocabulary_dir: Path | None = None  # folder with objects_vocab.txt and attributes_vocab.txt; None: the weights' own
    min_regions: int = Field(36, ge=1, le=300)  # rows at least, as far as there are proposals
    max_regions: int = Field(36, ge=1, le=300)  # rows at most
    min_score: float = Field(0.2, gt=0, le=1)  # confidence from which a proposal is kept
    stored_boxes: Literal["proposals", "regressed"] = (
        "proposals"  # what is stored beside the features, which are the proposals'
    )
    min_size: int = Field(600, ge=64, le=4000)  # pixels of the net's input, unless the long side would pass ...
    max_size: int = Field(1000, ge=256, le=4000)  # ... this
    max_proposals: int = Field(300, ge=1, le=6000)  # RoIs an image; fewer cost less and are not the classic model's
    full_precision: bool = False  # plain float32; else what the machine is quickest in
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"

    @model_validator(mode="after")
    def _rising(self) -> BottomUpConfig:
        if self.min_regions > self.max_regions:
            raise ValueError(f"min_regions {self.min_regions} is above max_regions {self.max_regions}")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}")
        return self


class Detectron2Config(BaseModel):
    """Which model, whose weights, and how many rows an image gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["detectron2"] = "detectron2"
    model: str  # a .yaml file, or a name of the model zoo: COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml
    weights: Path  # .pkl, .pth or .safetensors, in detectron2's names
    max_regions: int = Field(36, ge=1)  # rows, the whole image not counted
    min_score: float = Field(0.0, ge=0, le=1)  # 0: always filled up to max_regions; above: as many rows as reach it
    nms_iou: float = Field(0.5, gt=0, le=1)  # overlap at which the lower score goes
    whole_image: bool = True  # row 0 is the whole image
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"


class TextConfig(BaseModel):
    """Which model reads the sentences, and which of its layers is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "bert-base-uncased"  # a hub name, a folder, or "minilm": the copy inside the installed package
    # Index into hidden_states: -1 the last, 0 the embeddings, k after the k-th layer; or the mean of the last four
    # layers (BERT's paper, table 7, sums them; the mean keeps the scale of one layer).
    layer: int | Literal["mean-last-4"] = -1
    max_tokens: int = Field(64, ge=3)  # tokens kept of a sentence, [CLS] and [SEP] included
    batch_size: int = Field(64, ge=1)  # sentences
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the products; bfloat16 is 2.8 times as fast where built in
    device: str = "cpu"  # "cpu", "cuda", "cuda:1"


def _find_kind(value: Any) -> Any:
    """Return the `kind` of a configuration, or of the table from which one is to be made; "torchvision" if absent."""
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
"""Settings of a region extractor, chosen by `kind`. A new kind is also added to `build_region_extractor`."""

REGION_CONFIGS: tuple[type[BaseModel], ...] = (TorchvisionConfig, GridConfig, BottomUpConfig, Detectron2Config)
"""The classes of `RegionsConfig`, in the order of the documentation."""

"""Settings of the training, the model, the loss and the evaluation (docs/reference/losses.md lists the losses)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tern.presets import apply_preset


class EvaluationConfig(BaseModel):
    """What is measured beside recalls and ranks of the whole split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(0, ge=0, le=1000)
    """parts of the split whose means are given too, as `fold_*`: 5 for COCO's 1K protocol; 0 for none"""
    ndcg: bool = False
    """NDCG@25 with ROUGE-L relevances, as `*_ndcg_rougeL`"""
    spice_file: str = ""
    """NDCG@25 with the relevances of a file in the TERN authors' format, as `*_ndcg_spice`: its path, with {split} for
    the split's name; empty for none"""


class LossConfig(BaseModel):
    """Which loss, and its numbers. Fields that a loss has no use for are ignored by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "infonce"
    """`infonce`, `hinge`, or a class of pytorch_metric_learning.losses such as `SupConLoss`"""
    margin: float = Field(0.2, ge=0)
    """hinge: cosine by which a positive must beat a negative"""
    negatives: Literal["hardest", "semihard", "all"] = "hardest"
    """hinge: the worst negative of each pair, the worst of those that score below the positive, or the sum over all"""
    reduction: Literal["mean", "sum", "nonzero"] = "mean"
    """over positive pairs (hinge), anchors (infonce), or what the library's loss yields; `nonzero`
    is the mean over those above zero"""
    temperature: float = Field(0.07, ge=0.01, le=1)
    """infonce: what cosines are divided by, at the start"""
    learn_temperature: bool = True
    """infonce: whether the temperature is a parameter, held within 0.01 to 1"""
    miner: str = ""
    """library losses: a class of pytorch_metric_learning.miners, or empty for none"""
    distance: Literal["", "cosine", "lp"] = ""
    """library losses: the distance, or empty for the class's own"""
    params: dict[str, float | int | str | bool] = {}
    """library losses: further arguments of the class"""
    miner_params: dict[str, float | int | str | bool] = {}
    """library losses: arguments of the miner"""
    memory_size: int = Field(0, ge=0, le=1 << 20)
    """any loss: rows a modality that are kept from earlier batches and compared with as well; 0 for none"""
    memory_start_batch: int = Field(0, ge=0)
    """any loss with a memory: batches before it is used; rows of a model that still moves fast mislead"""
    vicreg_weight: float = Field(0, ge=0)
    """any loss: weight of an added VICReg term, whose value is about 5 to 70; 0 for none"""


ARCHITECTURE_SETTINGS: dict[str, dict[str, object]] = {  # what the other networks cannot be asked to change
    "default": {},
    "paper": {
        "text_layers": 0, "input_dropout": 0.0, "pooling": "cls", "box_embedding": "add", "pre_norm": False, "shortcut": False,
        "count_similar_regions": False,
    },
    "kaylode": {
        "text_layers": 0, "shared_layers": 0, "input_dropout": 0.0, "pooling": "mean", "box_embedding": "add",
        "pre_norm": True, "shortcut": False, "count_similar_regions": False,
    },
}  # fmt: skip


class ModelConfig(BaseModel):
    """The shape of the network. The two feature sizes are not here: the stores know them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["default", "paper", "kaylode"] = "default"
    """`modern`: the network of this file; `tern`: the authors' (tern/authors.py); `seed`: seed's (tern/seed.py)"""
    width: int = Field(256, ge=8)
    """features of a row inside the stacks"""
    heads: int = Field(4, ge=1)
    """attention heads; must divide `width`"""
    visual_layers: int = Field(1, ge=0)
    """layers for regions alone"""
    text_layers: int = Field(0, ge=0)
    """layers for wordpieces alone"""
    shared_layers: int = Field(1, ge=0)
    """layers that both kinds of row go through"""
    feedforward_dim: int = Field(512, ge=8)
    """features of the hidden layer of each feed-forward part"""
    dropout: float = Field(0.2, ge=0, lt=1)
    """fraction of the features of each residual branch that are zeroed, the same ones in all rows of an item"""
    input_dropout: float = Field(0.4, ge=0, lt=1)
    """fraction of the extracted features that are zeroed, the same ones in all rows of an item"""
    embed_dim: int = Field(512, ge=8)
    """features of the final vector"""
    pooling: Literal["gpo", "mean", "max", "cls"] = "gpo"
    box_embedding: Literal["add", "none"] = "add"
    """`add`: a projection of the box is added to its region; `none`: boxes are ignored"""
    pre_norm: bool = True
    """normalize before each branch (True) or after each sum (False, as the paper does)"""
    shortcut: bool = True
    """add a linear map of the pooled features to what the layers make of them (tern/direct.py)"""
    transformer_scale: float = Field(0.3, ge=0)
    """what the layers' part beside the direct road is multiplied by: the less, the more slowly it learns by heart"""
    count_similar_regions: bool = True
    """tell the layers and the direct road how many regions look like each (tern/counts.py)"""
    shortcut_dropout: float = Field(0.5, ge=0, lt=1)
    """fraction of the pooled numbers of an image that are zeroed before that map"""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of them")
        return self

    @model_validator(mode="after")
    def _architecture_is_as_published(self) -> ModelConfig:
        for name, value in ARCHITECTURE_SETTINGS[self.architecture].items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"architecture {self.architecture!r} has {name} = {value!r}, not {getattr(self, name)!r}; "
                    f'set preset = "{self.architecture}" in [train], which gives all of them'
                )
        if self.architecture == "paper" and (self.embed_dim % self.heads or not self.shared_layers):
            raise ValueError("architecture 'paper' needs a shared layer, and an embed_dim that is a multiple of heads")
        return self


class TrainConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["default", "small-data", "paper", "kaylode"] = "default"
    """the values that are not given: the defaults below, those for some hundreds of photographs, the authors' recipe,
    or seed's (tern/presets.py)"""
    seed: int = Field(0, ge=0)
    epochs: int = Field(30, ge=1)
    """passes over the training images"""
    images_per_batch: int = Field(128, ge=2)
    """images a step"""
    captions_per_image: int = Field(2, ge=1)
    """captions of each image in a step; they take turns from epoch to epoch"""
    lr: float = Field(1e-3, gt=0)
    """highest learning rate of AdamW"""
    betas: tuple[float, float] = (0.9, 0.999)
    """of AdamW: decays of its averages of the gradient and of its square"""
    eps: float = Field(1e-8, gt=0)
    """of AdamW: added to the root of the average of the square"""
    weight_decay: float = Field(1e-2, ge=0)
    """of weight matrices; biases, norms and the temperature are left alone"""
    warmup: float = Field(0.1, ge=0)
    """fraction of the steps in which the rate rises from 0; from 1 on, the number of those steps"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """what the rate does after it has risen: down to 0 by a cosine, or nothing"""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """batches a step: the mean of their gradients moves the weights; negatives come from within each batch"""
    max_grad_norm: float = Field(2.0, gt=0)
    """largest norm of the gradient of the model"""
    ema: float = Field(0.98, ge=0, lt=1)
    """decay a step of the averaged weights, which are the ones validated and kept; 0 keeps the raw ones"""
    all_negatives_epochs: int = Field(1, ge=0)
    """hinge only: first epochs that sum over all negatives; the hardest alone collapse an untrained model"""
    region_drop: float = Field(0.1, ge=0, lt=1)
    """fraction of regions left out in training"""
    token_drop: float = Field(0.1, ge=0, lt=1)
    """fraction of wordpieces left out in training"""
    length_groups: int = Field(3, ge=1)
    """by length, that the captions of a step are split into, each padded to its own longest"""
    selection_window: int = Field(5, ge=1)
    """epochs up to each whose mean rsum on validation chooses: that of one is noise where `val` is small"""
    patience: int = Field(0, ge=0)
    """epochs without a higher such mean after which training ends; 0 for never"""
    fine_tune: bool = False
    """train the text encoder too, from the token ids of the store; else its stored features are what is read"""
    text_lr_scale: float = Field(0.1, gt=0)
    """learning rate of the text encoder as a fraction of `lr`"""
    bf16: bool = False
    """forward and backward in bfloat16 (autocast); weights, loss and metrics stay float32"""
    compile: bool = False
    """the model through torch.compile: about a minute at the start; needs a C++ compiler on a CPU"""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: the GPU if there is one"""
    save_steps: int = Field(0, ge=0)
    """steps between two states on disk in the middle of an epoch; 0 for none by this rule"""
    save_seconds: float = Field(300, ge=0)
    """seconds between two such states; 0 for none by this rule"""
    tensorboard: bool = False
    """write scalars for TensorBoard too; the package of that name must be installed"""
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()

    @model_validator(mode="before")
    @classmethod
    def _over_the_preset(cls, given: Any) -> Any:
        return apply_preset(given) if isinstance(given, dict) else given

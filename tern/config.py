"""Settings of training, model, loss and evaluation: the tables `[train]` and `[evaluate]` of a plan."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from data.config import NameOrPath, SettingsTable
from tern.presets import apply_preset

Decay = Annotated[float, Field(ge=0, lt=1)]


class EvaluationConfig(SettingsTable):
    """What an evaluation measures in addition to recalls and ranks of the complete split."""

    folds: int = Field(0, ge=0, le=1000)
    """Number of equal parts of the split; the mean over the parts is reported as `fold_*`. COCO's 1K protocol has 5; 0
    disables it."""
    ndcg: bool = False
    """Whether to compute NDCG@25 with ROUGE-L relevances, reported as `*_ndcg_rougeL`."""
    spice_file: NameOrPath = ""
    """Path of a file with relevances in the format of the TERN authors, for NDCG@25 reported as `*_ndcg_spice`.
    `{split}` stands for the name of the split; empty disables it."""


class LossConfig(SettingsTable):
    """Loss and its settings. A loss ignores the settings of other losses (docs/reference/losses.md)."""

    name: str = "infonce"
    """Name of the loss: `infonce`, `hinge`, or a class of `pytorch_metric_learning.losses` such as `SupConLoss`."""
    margin: float = Field(0.2, ge=0)
    """Margin of `hinge`: the cosine by which a positive pair must exceed a negative pair."""
    negatives: Literal["hardest", "semihard", "all"] = "hardest"
    """Negatives of `hinge`: the highest-scoring negative of each pair, the highest-scoring one below the positive, or
    the sum over all negatives."""
    reduction: Literal["mean", "sum", "nonzero"] = "mean"
    """Reduction over positive pairs (`hinge`), anchors (`infonce`) or the elements of the library's loss. `nonzero` is
    the mean over the values above 0."""
    temperature: float = Field(0.07, ge=0.01, le=1)
    """Initial temperature of `infonce`, by which cosines are divided. Unless it is set, the preset `default` has 0.1 to
    0.07, by the number of training images."""
    learn_temperature: bool = True
    """Whether the temperature of `infonce` is a trained parameter, clamped to 0.01 to 1."""
    miner: str = ""
    """Miner of a library loss: a class of `pytorch_metric_learning.miners`; empty for none."""
    distance: Literal["", "cosine", "lp"] = ""
    """Distance of a library loss; empty for the default of its class."""
    params: dict[str, float | int | str | bool] = Field({})
    """Further arguments of the class of a library loss."""
    miner_params: dict[str, float | int | str | bool] = Field({})
    """Arguments of the miner."""
    memory_size: int = Field(0, ge=0, le=1 << 20)
    """Vectors per modality of earlier batches that every loss also compares with; 0 disables the memory."""
    memory_start_batch: int = Field(0, ge=0)
    """Number of batches before the memory is used; at the start of training the vectors of earlier batches are too far
    from the current ones."""
    alignment_weight: float = Field(1, gt=0)
    """Weight of the loss of the alignment scores, for a model with row vectors: `infonce` with the settings above. Row
    vectors that are not trained would explain hits by chance: `model.alignment_dim = 0` leaves them out."""
    vicreg_weight: float = Field(0, ge=0)
    """Weight of the VICReg term that is added to the loss; the term is about 5 to 70. 0 disables it."""


# Settings that an architecture fixes.
ARCHITECTURE_SETTINGS: dict[str, dict[str, object]] = {
    "default": {},
    "paper": {
        "text_layers": 0, "input_dropout": 0.0, "pooling": "cls", "box_embedding": "add", "pre_norm": False,
        "shortcut": False, "count_similar_regions": False, "pooled_half": False, "alignment_dim": 0,
    },
    "kaylode": {
        "text_layers": 0, "shared_layers": 0, "input_dropout": 0.0, "pooling": "mean", "box_embedding": "add",
        "pre_norm": True, "shortcut": False, "count_similar_regions": False, "pooled_half": False, "alignment_dim": 0,
    },
    "vse-infinity": {
        "visual_layers": 0, "text_layers": 0, "shared_layers": 0, "input_dropout": 0.0, "pooling": "gpo",
        "box_embedding": "none", "shortcut": False, "count_similar_regions": False, "pooled_half": False,
        "alignment_dim": 0,
    },
    "teran": {},
}  # fmt: skip


class ModelConfig(SettingsTable):
    """Shape of the network. The sizes of the input features are not settings: they come from the stores."""

    architecture: Literal["default", "paper", "kaylode", "vse-infinity", "teran"] = "default"
    """Network: `default` (tern/networks/default.py), `paper` (tern/networks/paper.py), `kaylode`
    (tern/networks/kaylode.py) or `vse-infinity` (tern/networks/vse_infinity.py). `teran` (tern/networks/teran.py) is
    that of imported checkpoints and cannot be trained."""
    width: int = Field(256, ge=8)
    """Features per row inside the layers."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide `width`."""
    visual_layers: int = Field(1, ge=0)
    """Number of layers for regions only."""
    text_layers: int = Field(0, ge=0)
    """Number of layers for tokens only."""
    shared_layers: int = Field(1, ge=0)
    """Number of layers that regions and tokens share."""
    feedforward_dim: int = Field(512, ge=8)
    """Features of the hidden layer of each feed-forward network."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout rate of the residual branches; the same features are zeroed in all rows of an item."""
    input_dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout rate of the input features; the same features are zeroed in all rows of an item."""
    embed_dim: int = Field(512, ge=8)
    """Features of the output vector."""
    pooling: Literal["gpo", "mean", "max", "cls"] = "gpo"
    """Pooling of the rows into one vector: learned (GPO), mean, maximum, or the first row."""
    box_embedding: Literal["add", "none"] = "add"
    """Use of the boxes: `add` adds a projection of the box to its region, `none` ignores boxes."""
    pre_norm: bool = True
    """Whether to normalize before each residual branch, or after each sum, as the paper does."""
    shortcut: bool = True
    """Whether to add a linear map of the pooled features to the transformer branch (tern/networks/shortcut.py)."""
    transformer_scale: float = Field(0.3, ge=0)
    """Factor of the transformer branch when there is a shortcut; a small factor delays overfitting. Unless it is set,
    the preset `default` has 0.1 to 0.3, by the number of training images."""
    count_similar_regions: bool = True
    """Whether the layers and the shortcut receive, per region, the number of similar regions
    (tern/networks/region_counts.py)."""
    shortcut_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate of the pooled features of an image before the shortcut's map. Unless it is set, the preset `default`
    has 0.7 to 0.5, by the number of training images."""
    pooled_half: bool = False
    """Whether the second half of the output vector comes from the network of VSE-infinity, trained with `hinge`
    (`margin` and `negatives` of the loss). The preset `default` has it."""
    alignment_dim: int = Field(0, ge=0, le=1024)
    """Numbers of the vector of each region and each token, with which the best hits are reranked
    (tern/networks/alignment.py); 0 for none. The preset `default` has 64."""
    token_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate of the token features before the map to row vectors; for regions it is `input_dropout`."""

    @model_validator(mode="after")
    def _check_heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}. Change one of them.")
        return self

    @model_validator(mode="after")
    def _check_fixed_settings(self) -> ModelConfig:
        for name, value in ARCHITECTURE_SETTINGS[self.architecture].items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"architecture {self.architecture!r} requires {name} = {value!r}, not {getattr(self, name)!r}. "
                    f'Set preset = "{self.architecture}" in [train], which sets all such values.'
                )
        if self.pooled_half and self.embed_dim % 2:
            raise ValueError(f"pooled_half requires an even embed_dim, not {self.embed_dim}. Change one of them.")
        if self.architecture == "paper" and (self.embed_dim % self.heads or not self.shared_layers):
            raise ValueError(
                "architecture 'paper' requires a shared layer and an embed_dim that is a multiple of heads. Change "
                f"shared_layers = {self.shared_layers}, embed_dim = {self.embed_dim} or heads = {self.heads}."
            )
        if self.architecture == "teran" and self.alignment_dim != self.embed_dim:
            raise ValueError(
                "architecture 'teran' requires alignment_dim = embed_dim. Change one of "
                f"{self.alignment_dim} and {self.embed_dim}."
            )
        return self


class TrainConfig(SettingsTable):
    """Settings of one training run."""

    preset: Literal["default", "paper", "kaylode", "vse-infinity"] = "default"
    """Values of the settings that the plan does not set: the defaults below, those of the paper, of kaylode/tern, or of
    VSE-infinity (tern/presets.py)."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Random seed of initial weights, batches and dropout."""
    epochs: int = Field(20, ge=1)
    """Number of passes over the training images. Unless it is set, the preset `default` has 8 to 40, by their number:
    20 for 1,000 images with five captions each."""
    images_per_batch: int = Field(128, ge=2)
    """Images per batch, at most."""
    captions_per_image: int = Field(2, ge=1)
    """Captions per image in a batch; they rotate from epoch to epoch."""
    lr: float = Field(1e-3, gt=0)
    """Maximum learning rate of AdamW."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Term that AdamW adds to the denominator."""
    weight_decay: float = Field(5e-2, ge=0)
    """Weight decay of matrices; biases, norms and the temperature have none."""
    warmup: float = Field(0.1, ge=0)
    """Steps in which the learning rate rises from 0: a fraction of all steps if below 1, else their number."""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """Learning rate after the warmup: a cosine down to 0, constant, or constant with a step down to a tenth after 60 %
    of all steps."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Batches per step. The weights are updated with the mean of their gradients; negatives come from within each
    batch."""
    max_grad_norm: float = Field(2.0, gt=0)
    """Maximum norm of the gradient of the model; larger gradients are scaled down."""
    ema: float = Field(0.98, ge=0, lt=1)
    """Decay per step of the EMA weights, which are validated and kept; 0 keeps the raw weights."""
    all_negatives_epochs: int = Field(1, ge=0)
    """Number of first epochs in which `hinge` sums over all negatives; the hardest negatives alone collapse an
    untrained model."""
    region_drop: float = Field(0.1, ge=0, lt=1)
    """Fraction of regions left out in training."""
    token_drop: float = Field(0.1, ge=0, lt=1)
    """Fraction of tokens left out in training."""
    length_groups: int = Field(3, ge=1)
    """Number of groups by length into which the captions of a batch are split; each is padded to its longest
    caption."""
    selection_window: int = Field(5, ge=1)
    """Number of epochs whose mean rsum on `val` selects the best epoch, each epoch and those before it. The rsum of one
    epoch is noise if `val` is small: unless it is set, the preset `default` has 500 / (images of `val`), from 1 to
    5."""
    patience: int = Field(0, ge=0)
    """Number of epochs without a higher mean after which training stops; 0 never stops early."""
    fine_tune: bool = False
    """Whether to train the text encoder too, from the stored token ids instead of the stored features."""
    text_lr_scale: float = Field(0.1, gt=0)
    """Learning rate of the text encoder as a fraction of `lr`."""
    bf16: bool = False
    """Whether forward and backward run in bfloat16 (autocast); weights, loss and metrics stay float32."""
    compile: bool = False
    """Whether to use torch.compile, which takes about a minute at the start and needs a C++ compiler on a CPU."""
    device: str = "auto"
    """Device: `cpu`, `cuda`, or `auto` for the GPU if there is one."""
    num_threads: int = Field(1, ge=1, le=1024)
    """CPU threads. Another number gives other last bits, so it is part of the name of the model; more than 1 is faster
    for wide networks, such as those of the paper."""
    save_steps: int = Field(0, ge=0)
    """Steps between two checkpoints within an epoch; 0 disables this rule."""
    save_seconds: float = Field(300, ge=0)
    """Seconds between two checkpoints within an epoch; 0 disables this rule."""
    tensorboard: bool = False
    """Whether to write scalars for TensorBoard; needs the package `tensorboard`."""
    model: ModelConfig = ModelConfig()
    """Shape of the network."""
    loss: LossConfig = LossConfig()
    """Loss and its settings."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, settings: Any) -> Any:
        return apply_preset(settings) if isinstance(settings, dict) else settings

    @model_validator(mode="after")
    def _check_architecture_is_trainable(self) -> TrainConfig:
        if self.model.architecture == "teran":
            raise ValueError(
                "architecture 'teran' is not trained here. Set `checkpoint` to a checkpoint of TERAN, or choose "
                "another architecture."
            )
        return self

"""Training: two stores and a data set into a folder with the best weights.

The folder holds `last.pt` (everything a resumed run needs), `best.safetensors`, `last.safetensors` and
`ema.safetensors`, `history.csv` (a row an epoch), `curves.png`, and `model.json`, which is written last:
with it the training is done, without it, it is not. A run that is killed anywhere and started again
ends, on a CPU, with the same bits as one straight through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from data.files import digest, read_json, remove_stale_temporaries, write_json
from data.lock import write_lock
from data.records import Dataset
from data.store import Store
from tern.checkpoint import CheckpointManager, check_fingerprint, load_checkpoint
from tern.curves import TensorBoardLogger
from tern.distributed import barrier, broadcast_from_rank0, get_rank_and_world_size
from tern.embed import MODEL_CARD
from tern.losses import LossConfig
from tern.model import ModelConfig
from tern.presets import apply_preset
from tern.run import Trainer

VERSION = 8  # to be raised when equal settings give other weights: runs are named by it
SETTINGS_WITHOUT_EFFECT = {
    "device",
    "save_steps",
    "save_seconds",
    "tensorboard",
}  # settings that are no part of what a run is


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


def fingerprint(config: TrainConfig, regions: Store, tokens: Store, dataset: Dataset) -> str:
    """12 hex digits that name a training: its config, and recipe and content of what it trains and validates on.

    Raises:
        ValueError: an item that a store does not have, named, or a data set without `train` or `val`
    """
    parts = []
    for split in ("train", "val"):
        part = dataset.select_split(split)
        images, captions = [image.id for image in part.images], [caption.id for caption in part.captions]
        parts.append(
            [
                split,
                regions.content_digest(images),
                tokens.content_digest(captions),
                sorted(part.image_id_by_caption_id.items()),
            ]
        )
    return digest([VERSION, config.model_dump(mode="json", exclude=SETTINGS_WITHOUT_EFFECT), parts])


def train(
    config: TrainConfig,
    regions: Store,
    tokens: Store,
    dataset: Dataset,
    folder: Path,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str = "cpu",
    text_encoder: nn.Module | None = None,
) -> Path:
    """Train on split `train`, choose the epoch with the highest rsum on `val`, a mean over the last `choose_over`.

    Where several processes are one group (`tern.distributed.joined`), each calls this and trains with its share.

    Args:
        regions: region store with an item for every image
        tokens: token store with an item for every caption
        folder: where the run lives; a finished one is returned at once, a broken-off one is resumed
        on_epoch: called after each epoch that this call runs, with its row of the history and
            `num_epochs`, `num_items` (images and captions seen), `seconds` and `seconds_left`
        device: `cpu` or `cuda`; no part of the run's name, as the number of processes is none
        text_encoder: (ids (b, l), mask (b, l)) -> (b, l, d), what the tokens' features were made with; for `fine_tune`

    Returns: the folder, with `model.json` in it

    Raises:
        ValueError: `val` without captions, an item missing from a store, a folder of another run, a loss that does
            not fit, a loss or gradient that is no longer finite (naming the images), or a folder another trains in
    """
    if not dataset.select_split("val").captions:
        raise ValueError(f"{dataset.name}: split 'val' has no captions, so no epoch can be chosen; give it some")
    if config.fine_tune != (text_encoder is not None):
        raise ValueError("fine_tune needs a text encoder, and without it none is taken: give both or neither")
    folder, key = Path(folder), fingerprint(config, regions, tokens, dataset)
    finished = lambda: broadcast_from_rank0((folder / MODEL_CARD).is_file())  # noqa: E731
    if not finished():
        folder.mkdir(parents=True, exist_ok=True)
        with (
            nullcontext() if get_rank_and_world_size()[0] else write_lock(folder)
        ):  # two that train there would leave weights of both
            if not finished():
                _train(config, regions, tokens, dataset, folder, key, on_epoch, device, text_encoder)
            barrier()
    check_fingerprint(read_json(folder / MODEL_CARD)["fingerprint"], key, folder)
    return folder


def _train(
    config: TrainConfig, regions: Store, tokens: Store, dataset: Dataset, folder: Path, key: str,
    on_epoch: Callable[[dict[str, float]], None] | None, device: str, text_encoder: nn.Module | None,
) -> None:  # fmt: skip
    """As `train`, in a folder that is this run's alone."""
    run = Trainer(config, regions, tokens, dataset, device, text_encoder)
    if not run.rank:
        remove_stale_temporaries(folder)
    load_checkpoint(folder, key, run)
    keeper = CheckpointManager(folder, key, run, config.save_steps, config.save_seconds)
    run_epochs(run, keeper, on_epoch)
    if not run.rank:
        keeper.save_final()
        write_model_card(folder, key, run)


def run_epochs(run: Trainer, keeper: CheckpointManager, on_epoch: Callable[[dict[str, float]], None] | None) -> None:
    """The epochs that are left, each put on disk and told of."""
    board = (
        TensorBoardLogger(keeper.folder, run.epoch * run.batches_per_epoch + 1)
        if run.config.tensorboard and not run.rank
        else None
    )
    while not run.is_finished:
        began, before = time.perf_counter(), run.global_step
        seen = sum(len(plan.images) + len(plan.captions) for plan in run.plan_batches(run.epoch))
        row = run.train_epoch(keeper.after_step)
        keeper.after_epoch()
        seconds = time.perf_counter() - began
        left = seconds / (run.global_step - before) * (run.config.epochs * run.steps_per_epoch - run.global_step)
        if board:
            board.log_epoch(row, run.losses, run.epoch * run.batches_per_epoch)
        if on_epoch and not run.rank:
            told = {"num_epochs": run.config.epochs, "num_items": seen, "seconds": seconds, "seconds_left": left}
            on_epoch(row | told)
    if board:
        board.close()


def write_model_card(folder: Path, key: str, run: Trainer) -> None:
    """Write the model's card, the one sign that training is done."""
    best, config = run.history[run.best_epoch - 1], run.config.model_dump(mode="json")
    card: dict[str, Any] = {"fingerprint": key, "config": config, "model": config["model"]}
    card |= {"region_dim": run.regions.dim, "token_dim": run.tokens.dim, "fine_tuned": run.config.fine_tune}
    card |= {"region_recipe": digest(run.regions.recipe), "token_recipe": digest(run.tokens.recipe)}
    card |= {"num_parameters": sum(p.numel() for p in run.model.parameters()), "epoch": best["epoch"]}
    metrics = {name: value for name, value in best.items() if name not in ("epoch", "loss", "lr")}
    write_json(folder / MODEL_CARD, card | {"metrics": metrics})

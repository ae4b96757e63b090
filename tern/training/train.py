"""Training: two stores and a dataset into a folder with the best weights.

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
from typing import Any

from torch import nn

from data.datasets import Dataset
from data.io import digest, read_json, remove_stale_temporaries, write_json, write_lock
from data.store import Store
from tern.config import TrainConfig
from tern.model.folder import MODEL_CARD
from tern.parallel.group import barrier, broadcast_from_rank0, get_rank_and_world_size
from tern.training.checkpoint import CheckpointManager, check_fingerprint, load_checkpoint
from tern.training.curves import TensorBoardLogger
from tern.training.trainer import Trainer

VERSION = 8  # to be raised when equal settings give other weights: runs are named by it
SETTINGS_WITHOUT_EFFECT = {
    "device",
    "save_steps",
    "save_seconds",
    "tensorboard",
}  # settings that are no part of what a run is


def fingerprint(config: TrainConfig, regions: Store, tokens: Store, dataset: Dataset) -> str:
    """12 hex digits that name a training: its config, and recipe and content of what it trains and validates on.

    Raises:
        ValueError: an item that a store does not have, named, or a dataset without `train` or `val`
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

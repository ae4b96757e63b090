"""Train a model: two stores and a dataset in, a folder with the best weights out.

The folder contains `last.pt` (the checkpoint from which a training resumes), `best.safetensors`, `last.safetensors` and
`ema.safetensors`, `history.csv` (one row per epoch), `curves.png`, and the model card `model.json`. The card is written
last and marks the training as finished. A training that was killed at any moment and started again ends, on a CPU, with
the same bits as one without interruption.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from data.io import digest, remove_stale_temporaries, write_lock
from tern.card import MODEL_CARD, ModelCard, read_model_card, write_model_card
from tern.config import TrainConfig
from tern.evaluation.baselines import chance_recalls
from tern.model.folder import WEIGHTS
from tern.parallel.group import barrier, broadcast_from_rank0, get_rank_and_world_size
from tern.parallel.threads import torch_threads
from tern.size import complete_settings
from tern.training.checkpoint import CheckpointManager, check_fingerprint, load_checkpoint
from tern.training.curves import TensorBoardLogger
from tern.training.history import EpochProgress
from tern.training.inputs import TrainingInputs
from tern.training.trainer import Trainer
from tern.training.validation import choose_weight_on_split

log = logging.getLogger(__name__)
VERSION = 11  # part of the digest that names a training; raise it when equal settings give other weights
SETTINGS_WITHOUT_EFFECT = {"device", "save_steps", "save_seconds", "tensorboard"}  # not part of the digest
OnEpoch = Callable[[EpochProgress], None]


def fingerprint(inputs: TrainingInputs, config: TrainConfig) -> str:
    """Compute the digest (12 hex digits) that names a training.

    It covers the settings, those that follow from the size of the dataset included, and the recipe and the content of
    the items of `train` and `val`.

    Raises:
        ValueError: A store lacks an item, or the dataset has no split `train` or `val`.
    """
    contents = []
    for split in ("train", "val"):
        subset = inputs.dataset.select_split(split)
        images = inputs.regions.content_digest([image.id for image in subset.images])
        captions = inputs.tokens.content_digest([caption.id for caption in subset.captions])
        contents.append([split, images, captions, sorted(subset.image_id_by_caption_id.items())])
    settings = complete_settings(config, inputs.dataset).model_dump(mode="json", exclude=SETTINGS_WITHOUT_EFFECT)
    return digest([VERSION, settings, contents])


def describe_hardware(device: str) -> str:
    """Return what `fingerprint` leaves out of the numbers of a training: device and number of processes.

    It is empty for one process on a CPU, else such as `-cuda` or `-cuda-4-processes`.
    """
    kind, (_, world) = device.partition(":")[0], get_rank_and_world_size()
    return (f"-{kind}" if kind != "cpu" else "") + (f"-{world}-processes" if world > 1 else "")


def train(
    inputs: TrainingInputs,
    config: TrainConfig,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
    text_encoder: nn.Module | None = None,
) -> Path:
    """Train on split `train` and keep the epoch with the highest rsum on `val`.

    The rsum is averaged over `selection_window` epochs. In a process group (`tern.parallel.process_group`), every
    process calls this function and trains with its share.

    Args:
        inputs: Stores and dataset.
        config: Settings of the training; `tern.size.complete_settings` completes them.
        folder: Folder of the training. A finished one is returned at once, an interrupted one is resumed.
        on_epoch: Called after each epoch that this call runs.
        device: `cpu` or `cuda`. Like the number of processes, it is not part of the digest; see `describe_hardware`.
        text_encoder: Text encoder of the token store, for `fine_tune`: (ids (b, l), mask (b, l)) -> (b, l, d).

    Returns:
        The folder, which contains the model card.

    Raises:
        ValueError: `val` has no captions, a store lacks an item, the folder belongs to another training or another
            process trains in it, the loss does not fit, or a loss or gradient is not finite (the message lists the
            images).
    """
    if not inputs.dataset.select_split("val").captions:
        raise ValueError(
            f"{inputs.dataset.name}: split 'val' has no captions, so that no epoch can be selected. Add captions to it."
        )
    if config.fine_tune != (text_encoder is not None):
        raise ValueError(
            f"fine_tune is {config.fine_tune}, but a text encoder is {'not ' if config.fine_tune else ''}passed. Use "
            "both or neither."
        )
    folder, key, config = Path(folder), fingerprint(inputs, config), complete_settings(config, inputs.dataset)

    def is_finished() -> bool:
        return broadcast_from_rank0((folder / MODEL_CARD).is_file())

    if not is_finished():
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes that train in one folder independently would mix their weights.
        with nullcontext() if get_rank_and_world_size()[0] else write_lock(folder):
            if not is_finished():
                with torch_threads(config.num_threads):
                    run_training(Trainer(inputs, config, device, text_encoder), folder, key, on_epoch)
            barrier()
    check_fingerprint(read_model_card(folder).fingerprint, key, folder)
    return folder


def run_training(trainer: Trainer, folder: Path, key: str, on_epoch: OnEpoch | None) -> None:
    """Resume or start a training in a locked folder and write its model card at the end.

    Args:
        trainer: Training at its start.
        folder: Folder of the training, locked by the main process.
        key: Digest that names the training.
        on_epoch: Called by the main process after each epoch that this call runs; None: no callback.
    """
    if not trainer.rank:
        remove_stale_temporaries(folder)
    config = trainer.config
    if not trainer.rank:
        log.info("%s", describe_settings(trainer))
    load_checkpoint(folder, key, trainer)
    manager = CheckpointManager(folder, key, trainer, config.save_steps, config.save_seconds)
    run_epochs(trainer, manager, on_epoch)
    if not trainer.rank:
        manager.save_final()
        write_model_card(folder, make_model_card(trainer, key, choose_best_alignment_weight(trainer, folder)))


def describe_settings(trainer: Trainer) -> str:
    """Say how large the training set is, and the settings that follow from it."""
    config = trainer.config
    images, captions = len(trainer.captions_by_image_id), sum(map(len, trainer.captions_by_image_id.values()))
    window = config.selection_window
    selection = f"the mean rsum of {window} epochs" if window > 1 else "the rsum of an epoch"
    text = f"Training on {images:,} images with {captions:,} captions: {config.epochs} epochs"
    if config.preset == "default":
        model = config.model
        text += f", transformer_scale {model.transformer_scale:.2g}, shortcut_dropout {model.shortcut_dropout:.2g}"
        text += f", temperature {config.loss.temperature:.2g}"
    return f"{text}; {selection} on val selects the best one."


def run_epochs(trainer: Trainer, manager: CheckpointManager, on_epoch: OnEpoch | None) -> None:
    """Run the remaining epochs; save and report each of them.

    Args:
        trainer: Training, at its start or resumed.
        manager: Saves the checkpoints.
        on_epoch: As in `run_training`.
    """
    board = None
    if trainer.config.tensorboard and not trainer.rank:
        board = TensorBoardLogger(manager.folder, trainer.epoch * trainer.batches_per_epoch + 1)
    total_steps = trainer.config.epochs * trainer.steps_per_epoch
    captions_by_image = [len(captions) for captions in trainer.validation.captions_by_image_id.values()]
    while not trainer.is_finished:
        start, first_step = time.perf_counter(), trainer.global_step
        num_items = sum(len(batch.images) + len(batch.captions) for batch in trainer.plan_batches(trainer.epoch))
        epoch = trainer.train_epoch(manager.after_step)
        manager.after_epoch()
        seconds = time.perf_counter() - start
        seconds_left = seconds / (trainer.global_step - first_step) * (total_steps - trainer.global_step)
        if board:
            board.log_epoch(epoch, trainer.losses, trainer.epoch * trainer.batches_per_epoch)
        if on_epoch and not trainer.rank:
            on_epoch(
                EpochProgress(
                    epoch=epoch,
                    num_epochs=trainer.config.epochs,
                    num_items=num_items,
                    seconds=seconds,
                    seconds_left=seconds_left,
                    val_images=len(trainer.validation.images),
                    val_captions=len(trainer.validation.captions),
                    chance_rsum=chance_recalls(captions_by_image)["rsum"],
                )
            )
    if board:
        board.close()


def choose_best_alignment_weight(trainer: Trainer, folder: Path) -> float:
    """Choose the weight of the alignment score of the best epoch on `val`; 0 for a model without row vectors."""
    if trainer.alignment_loss is None:
        return 0.0
    model = copy.deepcopy(trainer.ema_model)
    model.load_state_dict(load_file(folder / WEIGHTS))
    inputs = trainer.inputs
    return choose_weight_on_split(model, inputs.regions, inputs.tokens, trainer.validation)


def make_model_card(trainer: Trainer, key: str, alignment_weight: float) -> ModelCard:
    """Make the card of a finished training."""
    best, config, inputs = trainer.history[trainer.best_epoch - 1], trainer.config, trainer.inputs
    return ModelCard(
        fingerprint=key,
        config=config,
        model=config.model,
        region_dim=inputs.regions.dim,
        token_dim=inputs.tokens.dim,
        region_recipe=digest(inputs.regions.recipe),
        token_recipe=digest(inputs.tokens.recipe),
        fine_tuned=config.fine_tune,
        alignment_weight=alignment_weight,
        num_parameters=sum(p.numel() for p in trainer.model.parameters()),
        epoch=best.epoch,
        metrics=best.validation.flat(),
    )

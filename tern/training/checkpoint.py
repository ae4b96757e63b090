"""The files of a training: its checkpoint, from which it resumes with the same bits, and its weights.

`last.pt` contains everything that a resumed training needs, also in the middle of an epoch. `best.safetensors` are the
weights of the best epoch so far. A finished training also leaves `last.safetensors`, the raw weights of its last step,
and `ema.safetensors`, the EMA weights.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch

from data.io import atomic_write, is_out_of_memory
from tern.model.folder import WEIGHTS, save_weights
from tern.parallel.group import broadcast_from_rank0, get_rank_and_world_size
from tern.training.curves import CURVES, plot_curves
from tern.training.history import HISTORY, Epoch, write_history
from tern.training.trainer import Trainer

log = logging.getLogger(__name__)
STATE = "last.pt"
LAST = "last.safetensors"
EMA = "ema.safetensors"
# What torch.load and load_state_dict raise for a file that is not a checkpoint or is incomplete.
DAMAGED = (RuntimeError, KeyError, TypeError, AttributeError, EOFError, IndexError, UnpicklingError, BadZipFile)
CURVES_SECONDS = 60  # minimum time between two drawings of the curves


class CheckpointManager:
    """Saves a training after steps and after epochs. Only the main process writes.

    Args:
        folder: Folder of the training.
        key: Digest that names the training.
        trainer: The training.
        save_steps: Steps between two checkpoints within an epoch; 0 disables this rule.
        save_seconds: Seconds between two checkpoints within an epoch; 0 disables this rule.
    """

    def __init__(self, folder: Path, key: str, trainer: Trainer, save_steps: int, save_seconds: float) -> None:
        self.folder, self.key, self.trainer = folder, key, trainer
        self.save_steps, self.save_seconds = save_steps, save_seconds
        self.saved_at = self.drawn_at = time.monotonic()

    def after_step(self) -> None:
        """Save a checkpoint if a rule demands one and the epoch has not ended."""
        trainer = self.trainer
        by_time = self.save_seconds and time.monotonic() - self.saved_at >= self.save_seconds
        by_steps = self.save_steps and trainer.step % self.save_steps == 0
        if trainer.step < trainer.steps_per_epoch and (by_time or by_steps):
            self.save()

    def after_epoch(self) -> None:
        """Save the weights if the epoch is the best so far, then the checkpoint, then history and curves."""
        trainer = self.trainer
        if get_rank_and_world_size()[0]:
            return
        if trainer.best_epoch == trainer.epoch:
            save_weights(self.folder / WEIGHTS, trainer.ema_model)
        self.save()
        write_history(self.folder / HISTORY, trainer.history)
        if time.monotonic() - self.drawn_at >= CURVES_SECONDS:
            plot_curves(self.folder / CURVES, trainer.history)
            self.drawn_at = time.monotonic()

    def save(self) -> None:
        """Write the checkpoint. A loss that is not finite raises an error before anything is written."""
        trainer = self.trainer
        trainer.check_pending_values()
        self.saved_at = time.monotonic()
        if get_rank_and_world_size()[0]:
            return
        state = {name: part.state_dict() for name, part in trainer.stateful_parts().items()}
        position = {"epoch": trainer.epoch, "step": trainer.step, "losses": trainer.losses}
        history = [epoch.flat() for epoch in trainer.history]
        # Into a file of Python: its errors have a number, those of torch's own writer have not ("unexpected pos").
        with atomic_write(self.folder / STATE) as path, open(path, "wb") as file:
            torch.save(state | position | {"history": history, "key": self.key}, file)

    def save_final(self) -> None:
        """Write what a finished training leaves besides its best weights."""
        trainer = self.trainer
        # A training that was killed between checkpoint and history lacks the last row.
        write_history(self.folder / HISTORY, trainer.history)
        plot_curves(self.folder / CURVES, trainer.history)
        save_weights(self.folder / LAST, trainer.model)
        save_weights(self.folder / EMA, trainer.ema_model)


def load_checkpoint(folder: Path, key: str, trainer: Trainer) -> None:
    """Restore the state that `CheckpointManager.save` wrote, if there is one.

    Args:
        folder: Folder of the training.
        key: Digest that names the training.
        trainer: Training that takes over the state.

    Raises:
        ValueError: The folder belongs to another training, the checkpoint is damaged, or the processes do not see the
            same folder.
    """
    if (folder / STATE).is_file():
        try:
            _restore(torch.load(folder / STATE, map_location=trainer.device, weights_only=True), key, folder, trainer)
        except DAMAGED as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{folder / STATE} is not a readable checkpoint ({type(error).__name__}: {reason}). Restore the file, "
                "or delete it to train from the first epoch."
            ) from error
    position = [trainer.epoch, trainer.step]
    if broadcast_from_rank0(position) != position:
        raise ValueError(
            f"Process {get_rank_and_world_size()[0]} does not see the checkpoint in {folder}. Use a folder that all "
            "processes share."
        )


def _restore(state: Any, key: str, folder: Path, trainer: Trainer) -> None:
    check_fingerprint(state["key"], key, folder)
    for name, part in trainer.stateful_parts().items():
        part.load_state_dict(state[name])
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    trainer.losses, trainer.history = state["losses"], [Epoch.from_flat(row) for row in state["history"]]
    log.info(
        "The training in %s resumes after epoch %s of %s; the finished ones are kept.",
        folder,
        trainer.epoch,
        trainer.config.epochs,
    )


def check_fingerprint(actual: str, key: str, folder: Path) -> None:
    """Check that a folder belongs to a training.

    Args:
        actual: Digest that the folder records.
        key: Digest of the training.
        folder: The folder, for the message.

    Raises:
        ValueError: The digests differ.
    """
    if actual != key:
        raise ValueError(
            f"{folder} contains the training {actual}, not {key}, which has other settings or data. Use another folder."
        )

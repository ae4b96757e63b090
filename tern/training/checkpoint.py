"""A run on disk: all of its state, whole at every moment, from which it goes on bit for bit; and the weights it leaves.

`last.pt` is everything a resumed run needs, from the middle of an epoch too. `best.safetensors` are the
weights that were validated best. A finished run also leaves `last.safetensors`, the raw weights of its last
step, and `ema.safetensors`, their average.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.io import atomic_write
from tern.model.folder import WEIGHTS, save_weights
from tern.parallel.group import broadcast_from_rank0, get_rank_and_world_size
from tern.training.curves import CURVES, plot_curves
from tern.training.history import HISTORY, write_history

if TYPE_CHECKING:
    from tern.training.trainer import Trainer


STATE = "last.pt"
LAST = "last.safetensors"
EMA = "ema.safetensors"
CURVES_SECONDS = 60  # seconds at least between two drawings of the curves


class CheckpointManager:
    """Puts a run on disk: every so many steps or seconds, and at the end of each epoch. The first process alone does.

    Args:
        steps: between two states in the middle of an epoch; 0 for no such rule
        seconds: the same in seconds; 0 for no such rule
    """

    def __init__(self, folder: Path, key: str, run: Trainer, steps: int, seconds: float) -> None:
        self.folder, self.key, self.run, self.steps, self.seconds = folder, key, run, steps, seconds
        self.saved = self.drawn = time.monotonic()

    def after_step(self) -> None:
        """Save the state if it is due and the epoch goes on."""
        run = self.run
        late = self.seconds and time.monotonic() - self.saved >= self.seconds
        if run.step < run.steps_per_epoch and (late or (self.steps and run.step % self.steps == 0)):
            self.save()

    def after_epoch(self) -> None:
        """Save the weights if they are the best, then the state, then the curves."""
        run = self.run
        if get_rank_and_world_size()[0]:
            return
        if run.best_epoch == run.epoch:
            save_weights(self.folder / WEIGHTS, run.ema_model)
        self.save()
        write_history(self.folder / HISTORY, run.history)
        if time.monotonic() - self.drawn >= CURVES_SECONDS:
            plot_curves(self.folder / CURVES, run.history)
            self.drawn = time.monotonic()

    def save(self) -> None:
        """Write the state. A loss that is not finite is found before it gets there."""
        run = self.run
        run.check_pending_values()
        self.saved = time.monotonic()
        if get_rank_and_world_size()[0]:
            return
        state = {name: part.state_dict() for name, part in run.stateful_parts().items()}
        about = {"epoch": run.epoch, "step": run.step, "losses": run.losses, "history": run.history}
        with atomic_write(self.folder / STATE) as path:
            torch.save(state | about | {"key": self.key}, path)

    def save_final(self) -> None:
        """What a finished run leaves beside its best weights."""
        run = self.run
        write_history(self.folder / HISTORY, run.history)  # a run killed between state and curve lacks the last row
        plot_curves(self.folder / CURVES, run.history)
        save_weights(self.folder / LAST, run.model)
        save_weights(self.folder / EMA, run.ema_model)


def load_checkpoint(folder: Path, key: str, run: Trainer) -> None:
    """Go on where `Keeper.save` left off, if it did.

    Raises:
        ValueError: the folder holds another run, or the processes do not see one folder
    """
    if (folder / STATE).is_file():
        state = torch.load(folder / STATE, map_location=run.device, weights_only=True)
        check_fingerprint(state["key"], key, folder)
        for name, part in run.stateful_parts().items():
            part.load_state_dict(state[name])
        run.epoch, run.step = state["epoch"], state["step"]
        run.losses, run.history = state["losses"], state["history"]
    here = [run.epoch, run.step]
    if broadcast_from_rank0(here) != here:
        raise ValueError(
            f"process {get_rank_and_world_size()[0]} does not see the state in {folder}: give a folder that all share"
        )


def check_fingerprint(found: str, key: str, folder: Path) -> None:
    """ValueError if a folder holds a run of another name."""
    if found != key:
        raise ValueError(f"{folder} holds the training {found}, not {key}: other settings or data; give another folder")

"""Training: two stores and a data set into a folder with the best weights.

The folder holds `last.pt` (everything a resumed run needs), `best.safetensors`, `history.csv` (a row
an epoch) and `model.json`, which is written last: with it the training is done, without it, it is not.
A run that is killed anywhere and started again ends, on a CPU, with the same bits as one straight
through: each epoch draws from its own seeds, and an epoch counts only when its state is on disk.
"""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from data.files import atomic, digest, read_json, sweep, write_json
from data.records import Dataset
from data.store import Store
from tern.batches import Plan, plan_epoch, read_captions, read_images
from tern.embed import CARD, WEIGHTS, validate
from tern.losses import LossConfig, build_loss
from tern.model import ModelConfig, build_model
from tern.optim import average, groups, rate
from tern.presets import with_preset

VERSION = 1  # to be raised when equal settings give other weights: runs are named by it
LAST = "last.pt"
HISTORY = "history.csv"


class TrainConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["modern", "tern", "seed"] = "modern"
    """the values that are not given: the defaults below, the authors' recipe, or kaylode's (tern/presets.py)"""
    seed: int = Field(0, ge=0)
    epochs: int = Field(30, ge=1)
    """passes over the training images"""
    batch_images: int = Field(128, ge=2)
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
    clip_norm: float = Field(2.0, gt=0)
    """largest norm of the gradient of the model"""
    ema: float = Field(0.98, ge=0, lt=1)
    """decay a step of the averaged weights, which are the ones validated and kept; 0 keeps the raw ones"""
    easy_epochs: int = Field(1, ge=0)
    """hinge only: first epochs that sum over all negatives; the hardest alone collapse an untrained model"""
    region_drop: float = Field(0.2, ge=0, lt=1)
    """fraction of regions left out in training"""
    token_drop: float = Field(0.1, ge=0, lt=1)
    """fraction of wordpieces left out in training"""
    bf16: bool = False
    """forward and backward in bfloat16 (autocast); weights, loss and metrics stay float32"""
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()

    @model_validator(mode="before")
    @classmethod
    def _over_the_preset(cls, given: Any) -> Any:
        return with_preset(given) if isinstance(given, dict) else given


def fingerprint(config: TrainConfig, regions: Store, tokens: Store, dataset: Dataset) -> str:
    """12 hex digits that name a training: its config, and recipe and content of what it trains and validates on.

    Raises:
        ValueError: an item that a store does not have, named, or a data set without `train` or `val`
    """
    parts = []
    for split in ("train", "val"):
        part = dataset.split(split)
        images, captions = [image.id for image in part.images], [caption.id for caption in part.captions]
        parts.append([split, regions.content(images), tokens.content(captions), sorted(part.owner.items())])
    return digest([VERSION, config.model_dump(mode="json"), parts])


def train(
    config: TrainConfig,
    regions: Store,
    tokens: Store,
    dataset: Dataset,
    folder: Path,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> Path:
    """Train on split `train`, choose the epoch with the highest rsum on `val`.

    Args:
        regions: region store with an item for every image
        tokens: token store with an item for every caption
        folder: where the run lives; a finished one is returned at once, a broken-off one is resumed
        on_epoch: called after each epoch that this call runs, with its row of the history and
            `epochs`, `rows` (images and captions seen), `seconds` and `seconds_left`
        device: `cpu` or `cuda`; no part of the run's name

    Returns: the folder, with `model.json` in it

    Raises:
        ValueError: `val` without captions, an item missing from a store, a folder of another run, a loss that does
            not fit, or a loss that is no longer finite (naming the images of the batch)
    """
    if not dataset.split("val").captions:
        raise ValueError(f"{dataset.name}: split 'val' has no captions, so no epoch can be chosen; give it some")
    folder, key = Path(folder), fingerprint(config, regions, tokens, dataset)
    if (folder / CARD).is_file():
        same_run(read_json(folder / CARD)["fingerprint"], key, folder)
        return folder
    run = Run(config, regions, tokens, dataset, device)
    sweep(folder)
    run.restore(folder, key)
    while run.epoch < config.epochs:
        began = time.perf_counter()
        row, seen = run.one_epoch()
        run.save(folder, key)
        if on_epoch:
            seconds = time.perf_counter() - began
            left = seconds * (config.epochs - run.epoch)
            on_epoch(row | {"epochs": config.epochs, "rows": seen, "seconds": seconds, "seconds_left": left})
    finish(folder, key, run)
    return folder


class Run:
    """The state of one training: model, averaged model, optimiser, and the history so far."""

    def __init__(self, config: TrainConfig, regions: Store, tokens: Store, dataset: Dataset, device: str) -> None:
        self.config, self.regions, self.tokens, self.device = config, regions, tokens, device
        learn, self.val = dataset.split("train"), dataset.split("val")
        self.captions_of = {name: [c.id for c in own] for name, own in learn.captions_of.items()}
        self.label = {name: place for place, name in enumerate(self.captions_of)}
        self.steps = len(self.plans(0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config.model, regions.dim, tokens.dim).to(device)
        self.averaged = copy.deepcopy(self.model).eval()
        self.loss = build_loss(config.loss).to(device)
        self.easy = (
            build_loss(config.loss.model_copy(update={"negatives": "all"})) if config.loss.name == "hinge" else None
        )
        self.optimizer = torch.optim.AdamW(
            groups(self.model, self.loss, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps
        )
        self.epoch, self.history, self.best = 0, [], -1.0

    def plans(self, epoch: int) -> list[Plan]:
        """Batches of an epoch."""
        c = self.config
        return plan_epoch(self.captions_of, c.batch_images, c.captions_per_image, c.seed, epoch)

    def one_epoch(self) -> tuple[dict[str, float], int]:
        """Train and validate once; returns the row of the history, and images plus captions seen."""
        total, plans = 0.0, self.plans(self.epoch)
        with torch.random.fork_rng(devices=[]):
            # dropout draws from torch's global state: seeded an epoch, it needs no saving
            torch.manual_seed(int(np.random.SeedSequence([self.config.seed, self.epoch]).generate_state(1)[0]))
            for step, plan in enumerate(plans):
                total += self.one_step(plan, step)
        self.epoch += 1
        row = {"epoch": self.epoch, "loss": total / len(plans), "lr": self.optimizer.param_groups[0]["lr"]}
        row |= validate(self.averaged, self.regions, self.tokens, self.val)
        self.history.append(row)
        return row, sum(len(plan.images) + len(plan.captions) for plan in plans)

    def one_step(self, plan: Plan, step: int) -> float:
        """Forward, backward, update; returns the loss."""
        done = self.epoch * self.steps + step
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(
                done, self.steps * self.config.epochs, self.config.warmup, self.config.schedule
            )
        self.model.train()
        loss = self.loss_of(plan, step)
        if not loss.isfinite():
            raise ValueError(
                f"the loss is {loss.item()} in epoch {self.epoch + 1}, step {step + 1}, on the images "
                f"{', '.join(plan.images)}; look at their features, or lower lr (now {self.config.lr})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        average(self.averaged, self.model, min(self.config.ema, (1 + done) / (10 + done)))
        return loss.item()

    def loss_of(self, plan: Plan, step: int) -> Tensor:
        """The loss of one batch, with regions and wordpieces dropped."""
        c, to = self.config, self.device
        draw = np.random.default_rng([c.seed, 2, self.epoch, step])
        images = read_images(self.regions, plan.images, c.region_drop, draw)
        captions = read_captions(self.tokens, plan.captions, c.token_drop, draw)
        with torch.autocast(torch.device(to).type, torch.bfloat16, enabled=c.bf16):
            parts = (images.features, images.boxes, images.sizes, images.mask)
            seen = self.model.embed_images(*(part.to(to) for part in parts))
            told = self.model.embed_captions(captions.features.to(to), captions.mask.to(to))
        labels = torch.tensor([self.label[name] for name in plan.images], device=to)
        loss = self.easy if self.easy and self.epoch < c.easy_epochs else self.loss
        return loss(seen, told, labels, labels[torch.tensor(plan.owners, device=to)])

    def save(self, folder: Path, key: str) -> None:
        """Put the end of an epoch on disk: the weights if they are the best, then all state, then the curve."""
        if self.history[-1]["rsum"] > self.best:
            self.best = self.history[-1]["rsum"]
            with atomic(folder / WEIGHTS) as path:
                save_file({name: value.cpu().contiguous() for name, value in self.averaged.state_dict().items()}, path)
        state = {name: part.state_dict() for name, part in self.parts().items()}
        with atomic(folder / LAST) as path:
            torch.save(state | {"epoch": self.epoch, "history": self.history, "best": self.best, "key": key}, path)
        write_history(folder / HISTORY, self.history)

    def restore(self, folder: Path, key: str) -> None:
        """Go on where `save` left off, if it did; ValueError if the folder holds another run."""
        if not (folder / LAST).is_file():
            return
        state = torch.load(folder / LAST, map_location=self.device, weights_only=True)
        same_run(state["key"], key, folder)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.epoch, self.history, self.best = state["epoch"], state["history"], state["best"]

    def parts(self) -> dict[str, Any]:
        """Everything with a state of its own."""
        return {"model": self.model, "averaged": self.averaged, "loss": self.loss, "optimizer": self.optimizer}


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """The curve as CSV, a row an epoch, whole at every moment."""
    with atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def finish(folder: Path, key: str, run: Run) -> None:
    """Write the model's card, the one sign that training is done."""
    write_history(folder / HISTORY, run.history)  # a run killed between state and curve lacks the last row
    best, config = max(run.history, key=lambda row: row["rsum"]), run.config.model_dump(mode="json")
    card = {"fingerprint": key, "config": config, "model": config["model"]}
    card |= {"region_dim": run.regions.dim, "token_dim": run.tokens.dim}
    card |= {"regions": digest(run.regions.recipe), "tokens": digest(run.tokens.recipe)}
    card |= {"parameters": sum(p.numel() for p in run.model.parameters()), "epoch": best["epoch"]}
    metrics = {name: value for name, value in best.items() if name not in ("epoch", "loss", "lr")}
    write_json(folder / CARD, card | {"metrics": metrics})


def same_run(found: str, key: str, folder: Path) -> None:
    """ValueError if a folder holds a run of another name."""
    if found != key:
        raise ValueError(f"{folder} holds the training {found}, not {key}: other settings or data; give another folder")

"""One training under way: model, averaged model, optimizer, and the steps of an epoch.

A batch is a function of seed, epoch and number, and so are the random numbers of its forward: nothing
of them needs saving, and a run that goes on from the middle of an epoch does what it would have done.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from data.datasets import Dataset
from data.store import Store, prefetch_map
from tern.batching.plan import BatchIds, plan_batches, rank_slices
from tern.batching.read import BatchReader
from tern.losses.build import build_loss
from tern.model.embed import caption_field
from tern.networks.build import build_trainable
from tern.networks.inputs import TrainingBatch, map_tensors
from tern.parallel.gradients import TwoTowerForward, all_gather_with_grad, average_gradients, wrap_ddp
from tern.parallel.group import broadcast_from_rank0, get_rank_and_world_size
from tern.training.normalization import fit_normalization
from tern.training.optim import PLATEAU_BATCHES, build_optimizer, is_on_plateau, lr_factor, update_ema
from tern.training.validation import evaluate_split

if TYPE_CHECKING:
    from tern.config import TrainConfig


PREFETCH = 4  # steps read before they are needed


class Trainer:
    """The state of one training. `epoch` and `step` count what is done, `step` within the epoch under way."""

    def __init__(
        self,
        config: TrainConfig,
        regions: Store,
        tokens: Store,
        dataset: Dataset,
        device: str,
        text: nn.Module | None = None,
    ) -> None:
        self.config, self.regions, self.tokens, self.device = config, regions, tokens, device
        self.rank, self.world = get_rank_and_world_size()
        learn, self.val = dataset.select_split("train"), dataset.select_split("val")
        self.captions_by_image_id = {name: [c.id for c in own] for name, own in learn.captions_by_image_id.items()}
        self.label = {name: number for number, name in enumerate(self.captions_by_image_id)}
        self.batches_per_epoch = len(self.plan_batches(0))
        self.steps_per_epoch = -(-self.batches_per_epoch // config.gradient_accumulation_steps)
        self._build(text)
        self.sources = BatchReader(
            regions, tokens, caption_field(self.model), config.region_drop, config.token_drop, config.length_groups,
            device.startswith("cuda"), self._feature_mean(),
        )  # fmt: skip
        self.epoch, self.step = 0, 0
        self._warned = False
        self._standing = 0  # batches in a row on the plateau of the hinge; a resumed run counts anew
        self.losses: list[float] = []  # of the batches of the epoch under way, or of the last one
        self.history: list[dict[str, float]] = []
        self._unsettled: list[tuple[str, Tensor, Any, list[BatchIds], int]] = []

    def _build(self, text: nn.Module | None) -> None:
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(c.seed)
            self.model = build_trainable(c.model, self.regions.dim, self.tokens.dim, text).to(self.device)
        captions = [name for own in self.captions_by_image_id.values() for name in own]
        fit_normalization(
            getattr(self.model, "tern", self.model), self.regions, self.tokens, [*self.captions_by_image_id], captions
        )
        self.ema_model = copy.deepcopy(self.model).eval()
        self.loss = build_loss(c.loss).to(self.device)
        easy = c.loss.model_copy(update={"negatives": "all", "memory_size": 0})
        self.all_negatives_loss = build_loss(easy) if c.loss.name == "hinge" else None
        self.optimizer = build_optimizer(c, self.model, self.loss, None if text is None else self.model.text)
        both = TwoTowerForward(self.model)
        if c.compile:
            both.compile(dynamic=True)
        self.both = wrap_ddp(both, self.device)

    def _feature_mean(self) -> Tensor | None:
        counts = getattr(getattr(self.model, "tern", self.model), "counts", None)
        return None if counts is None else counts.feature_mean.cpu()

    @property
    def best_epoch(self) -> int:
        """The first epoch of the highest rsum so far, each the mean of its own and the ones before; 0 before any."""
        marks, most = [row["rsum"] for row in self.history], self.config.selection_window
        means = [fmean(marks[max(0, end - most) : end]) for end in range(1, len(marks) + 1)]
        return means.index(max(means)) + 1 if means else 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them have gone by without a higher rsum."""
        c = self.config
        return self.epoch >= c.epochs or bool(c.patience and self.epoch - self.best_epoch >= c.patience)

    @property
    def global_step(self) -> int:
        """Steps so far, of all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    def plan_batches(self, epoch: int) -> list[BatchIds]:
        """Batches of an epoch. ValueError if a process would have no image of one."""
        c = self.config
        plans = plan_batches(self.captions_by_image_id, c.images_per_batch, c.captions_per_image, c.seed, epoch)
        if len(smallest := min((plan.images for plan in plans), key=len)) < self.world:
            raise ValueError(f"a batch of {len(smallest)} images for {self.world} processes: start fewer of them")
        return plans

    def train_epoch(self, after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train to the end of the epoch and validate; returns the row of the history.

        `after_step` is called after each step, when the state of this object is that of a run that may go on from here.
        """
        plans = self.plan_batches(self.epoch)
        begun = self.step * self.config.gradient_accumulation_steps
        self.losses = self.losses[:begun]
        steps = prefetch_map(self.read_batch, list(enumerate(plans))[begun:], prefetch=PREFETCH)
        gpus = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=gpus), closing(steps):
            for first in range(begun, len(plans), self.config.gradient_accumulation_steps):
                self.train_step(plans[first : first + self.config.gradient_accumulation_steps], first, steps)
                self.step += 1
                after_step()
        self.check_pending_values()
        row = {"epoch": self.epoch + 1, "loss": sum(self.losses) / len(plans)}
        row |= {"lr": self.optimizer.param_groups[0]["lr"]}
        found = evaluate_split(self.ema_model, self.regions, self.tokens, self.val) if not self.rank else {}
        self.history.append(row | broadcast_from_rank0(found))
        self.epoch, self.step = self.epoch + 1, 0
        return self.history[-1]

    def read_batch(self, numbered: tuple[int, BatchIds]) -> TrainingBatch:
        """This process's share of a batch of the epoch under way; threads do this ahead."""
        number, plan = numbered
        draw = np.random.default_rng([self.config.seed, 2, self.epoch, number])
        return self.sources.read(plan, draw, (self.rank, self.world))

    def train_step(self, plans: list[BatchIds], first: int, steps: Iterator[TrainingBatch]) -> None:
        """Forward and backward of some batches, the first of them number `first`, and one update."""
        c = self.config
        now = lr_factor(self.global_step, self.steps_per_epoch * c.epochs, c.warmup, c.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr * group["scale"] * now
        self.both.train()
        self.optimizer.zero_grad(set_to_none=True)
        for number, plan in enumerate(plans, first):
            with self._unsynced(last=plan is plans[-1]):
                loss = self.compute_loss(plan, number, next(steps))
                (loss / len(plans)).backward()
            self.check_pending_values()  # of the batch before this one: a GPU is at work on this one meanwhile
            self._note("loss", loss.detach(), [plan], number)
            if c.loss.name == "hinge" and c.loss.negatives == "hardest" and self.epoch >= c.all_negatives_epochs:
                self._note("hinge", getattr(self.loss, "base_value", loss.detach()), [plan], number)
        average_gradients(self.loss)
        # a gradient may overflow where the loss does not; found before any state is written
        self._note("gradient's norm", nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm), plans, first)
        self.optimizer.step()
        update_ema(self.ema_model, self.model, min(c.ema, (1 + self.global_step) / (10 + self.global_step)))

    def _unsynced(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are added up over the processes at the last batch of a step alone."""
        return nullcontext() if last or self.world == 1 else self.both.no_sync()

    def compute_loss(self, plan: BatchIds, number: int, step: TrainingBatch) -> Tensor:
        """The loss of one batch, the whole of it, from this process's share."""
        c, to = self.config, self.device
        seeds = [c.seed, self.epoch, number, self.rank]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))  # for dropout
        with torch.autocast(torch.device(to).type, torch.bfloat16, enabled=c.bf16):
            seen, told = self.both(map_tensors(step, lambda tensor: tensor.to(to, non_blocking=True)))
        shares = [rank_slices(plan, rank, self.world) for rank in range(self.world)]
        seen, told = (
            all_gather_with_grad(own, [s[k].stop - s[k].start for s in shares]) for k, own in enumerate((seen, told))
        )
        labels = torch.tensor([self.label[name] for name in plan.images])
        owners = labels[torch.tensor(plan.image_index)]
        loss = self.all_negatives_loss if self.all_negatives_loss and self.epoch < c.all_negatives_epochs else self.loss
        return loss(seen, told, labels.to(to), owners.to(to))

    def _note(self, what: str, value: Tensor, plans: list[BatchIds], number: int) -> None:
        """Have a number brought to the processor; on a GPU that happens in its turn, and nobody waits for it here."""
        arrived = torch.cuda.Event() if value.is_cuda else None
        value = value.to("cpu", non_blocking=True)
        if arrived:
            arrived.record()
        self._unsettled.append((what, value, arrived, plans, number))

    def check_pending_values(self) -> None:
        """Look at the losses and gradients of the batches that are through.

        Raises:
            ValueError: one is not finite; the epoch, the batch and its images are named
        """
        for what, value, arrived, plans, number in self._unsettled:
            if arrived:
                arrived.synchronize()
            if not value.isfinite():
                images = [name for plan in plans for name in plan.images]
                raise ValueError(
                    f"the {what} is {value.item()} in epoch {self.epoch + 1}, batch {number + 1}, on the images "
                    f"{', '.join(images)}; look at their features, or lower lr (now {self.config.lr})"
                )
            if what == "loss":
                self.losses.append(value.item())
            if what == "hinge":
                self._watch(value.item(), len(plans[0].captions))
        self._unsettled = []

    def _watch(self, loss: float, captions: int) -> None:
        """Warn, once, of a hinge of hardest negatives that all vectors alike would give."""
        c = self.config
        self._standing = self._standing + 1 if is_on_plateau(loss, captions, c.loss) else 0
        if self._standing == PLATEAU_BATCHES and not (self.rank or self._warned):
            self._warned = True
            warnings.warn(
                f"the hinge has stood at two margins ({2 * c.loss.margin:g} a pair) for {PLATEAU_BATCHES} batches, in epoch "
                f"{self.epoch + 1}: all vectors are alike, and no gradient leads out. Stop, and train the first "
                "epochs against all negatives (train.easy_epochs=1 or more), lower train.lr, or raise train.warmup",
                stacklevel=2,
            )

    def stateful_parts(self) -> dict[str, Any]:
        """Everything with a state of its own."""
        return {"model": self.model, "averaged": self.ema_model, "loss": self.loss, "optimizer": self.optimizer}

"""The state of a training and its loop over the batches of an epoch.

Batches, and the random numbers of their forward passes, depend only on the seed, the epoch and the batch number. No
random state is stored: a training that resumes in the middle of an epoch computes the same as an uninterrupted one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.store import prefetch_map
from tern.batching.plan import BatchIds, plan_batches, rank_slices
from tern.batching.read import BatchReader
from tern.config import TrainConfig
from tern.losses.build import build_all_negatives_loss, build_loss
from tern.losses.contrastive import InfoNCE
from tern.model.embed import caption_field
from tern.networks.build import build_trainable
from tern.networks.inputs import TrainingBatch, map_tensors
from tern.parallel.batch_norm import share_batch_norms
from tern.parallel.gradients import (
    TwoTowerForward,
    all_gather_with_grad,
    all_pairs_alignment,
    average_gradients,
    wrap_ddp,
)
from tern.parallel.group import broadcast_from_rank0, get_rank_and_world_size
from tern.training.history import Epoch
from tern.training.inputs import TrainingInputs
from tern.training.normalization import fit_normalization
from tern.training.optim import PLATEAU_BATCHES, build_optimizer, is_on_plateau, lr_factor, update_ema
from tern.training.validation import evaluate_split

ALIGNMENT_TEMPERATURE = 0.07  # the initial one of the alignment scores, at most
PREFETCH = 4  # batches that are read before they are needed


@dataclass(frozen=True)
class PendingValue:
    """A loss or gradient norm that is being copied from the device to the CPU."""

    kind: str
    value: Tensor
    copied: Any
    """CUDA event that marks the end of the copy; None on a CPU."""
    plans: list[BatchIds]
    """The batches that the value was computed from."""
    number: int
    """Number of the first of these batches."""


class Trainer:
    """The state of one training: model, EMA model, loss, optimizer and position.

    `epoch` is the number of finished epochs, `step` the number of finished steps of the current epoch.

    Args:
        inputs: Stores and dataset.
        config: Settings of the training.
        device: `cpu` or a GPU.
        text: Text encoder that is trained too.
    """

    def __init__(self, inputs: TrainingInputs, config: TrainConfig, device: str, text: nn.Module | None = None) -> None:
        self.inputs, self.config, self.device = inputs, config, device
        self.rank, self.world = get_rank_and_world_size()
        train_split, self.validation = inputs.dataset.select_split("train"), inputs.dataset.select_split("val")
        self.captions_by_image_id = {
            name: [caption.id for caption in captions] for name, captions in train_split.captions_by_image_id.items()
        }
        self.label_by_image_id = {name: number for number, name in enumerate(self.captions_by_image_id)}
        self.batches_per_epoch = len(self.plan_batches(0))
        self.steps_per_epoch = -(-self.batches_per_epoch // config.gradient_accumulation_steps)
        self._build(text)
        self.reader = BatchReader(
            inputs.regions,
            inputs.tokens,
            caption_field(self.model),
            config.region_drop,
            config.token_drop,
            config.length_groups,
            device.startswith("cuda"),
            self._feature_mean(),
        )
        self.epoch, self.step = 0, 0
        self.losses: list[float] = []  # of the batches of the current epoch, or of the last one
        self.history: list[Epoch] = []
        self._pending_values: list[PendingValue] = []
        # Consecutive batches on the plateau of the hinge loss; a resumed training starts at 0.
        self._plateau_batches = 0
        self._warned = False
        self._vector_loss = torch.tensor(0.0)  # of the last batch, without the loss of the alignment

    def _build(self, text: nn.Module | None) -> None:
        c, inputs = self.config, self.inputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(c.seed)
            self.model: Any = build_trainable(c.model, inputs.regions.dim, inputs.tokens.dim, text).to(self.device)
        if self.world > 1:
            share_batch_norms(self.model)
        caption_ids = [name for captions in self.captions_by_image_id.values() for name in captions]
        tern = getattr(self.model, "tern", self.model)
        fit_normalization(tern, inputs.regions, inputs.tokens, [*self.captions_by_image_id], caption_ids)
        self.ema_model = copy.deepcopy(self.model).eval()
        self.loss = build_loss(c.loss, c.model.pooled_half).to(self.device)
        # At the high temperature that few images need, the best region of a word is less often the right one.
        sharp = c.loss.model_copy(update={"temperature": min(c.loss.temperature, ALIGNMENT_TEMPERATURE)})
        self.alignment_loss = InfoNCE(sharp).to(self.device) if c.model.alignment_dim else None
        self.all_negatives_loss = build_all_negatives_loss(c.loss, self.loss)
        self.optimizer = build_optimizer(c, self.model, self.losses_with_parameters, text)
        towers = TwoTowerForward(self.model)
        if c.compile:
            towers.compile(dynamic=True)
        self.towers: Any = wrap_ddp(towers, self.device)

    def _feature_mean(self) -> Tensor | None:
        counts = getattr(getattr(self.model, "tern", self.model), "counts", None)
        return None if counts is None else counts.feature_mean.cpu()

    @property
    def losses_with_parameters(self) -> nn.ModuleList:
        """The losses whose parameters are trained."""
        return nn.ModuleList([self.loss] if self.alignment_loss is None else [self.loss, self.alignment_loss])

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest mean rsum of the last `selection_window` epochs.

        It is 0 if no epoch is finished.
        """
        rsums, window = [epoch.validation.rsum for epoch in self.history], self.config.selection_window
        means = [fmean(rsums[max(0, end - window) : end]) for end in range(1, len(rsums) + 1)]
        return means.index(max(means)) + 1 if means else 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are finished, or the last `patience` epochs had no higher rsum."""
        c = self.config
        return self.epoch >= c.epochs or bool(c.patience and self.epoch - self.best_epoch >= c.patience)

    @property
    def global_step(self) -> int:
        """Number of finished steps, over all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    def plan_batches(self, epoch: int) -> list[BatchIds]:
        """Plan the batches of an epoch. Raises ValueError if a process would have no image in one of them."""
        c = self.config
        plans = plan_batches(self.captions_by_image_id, c.images_per_batch, c.captions_per_image, c.seed, epoch)
        if len(smallest := min((plan.images for plan in plans), key=len)) < self.world:
            raise ValueError(f"A batch has {len(smallest)} images for {self.world} processes. Start fewer processes.")
        return plans

    def train_epoch(self, after_step: Callable[[], None] = lambda: None) -> Epoch:
        """Train to the end of the epoch and validate.

        Args:
            after_step: Called after each step, when the state of this object may be saved as a checkpoint.

        Returns:
            The epoch, which is also appended to `history`.
        """
        c = self.config
        plans = self.plan_batches(self.epoch)
        start = self.step * c.gradient_accumulation_steps
        self.losses = self.losses[:start]
        batches = prefetch_map(self.read_batch, list(enumerate(plans))[start:], prefetch=PREFETCH)
        gpus = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=gpus), closing(batches):  # type: ignore[type-var]  # a generator
            for first in range(start, len(plans), c.gradient_accumulation_steps):
                self.train_step(plans[first : first + c.gradient_accumulation_steps], first, batches)
                self.step += 1
                after_step()
        self.check_pending_values()
        loss, lr = sum(self.losses) / len(plans), self.optimizer.param_groups[0]["lr"]
        inputs = self.inputs
        metrics = None if self.rank else evaluate_split(self.ema_model, inputs.regions, inputs.tokens, self.validation)
        metrics = broadcast_from_rank0(metrics)
        assert metrics is not None
        self.history.append(Epoch(epoch=self.epoch + 1, loss=loss, lr=lr, validation=metrics))
        self.epoch, self.step = self.epoch + 1, 0
        return self.history[-1]

    def read_batch(self, numbered: tuple[int, BatchIds]) -> TrainingBatch:
        """Read the share of this process of a batch of the current epoch. Threads call this ahead of time."""
        number, plan = numbered
        rng = np.random.default_rng([self.config.seed, 2, self.epoch, number])
        return self.reader.read(plan, rng, (self.rank, self.world))

    def train_step(self, plans: list[BatchIds], first: int, batches: Iterator[TrainingBatch]) -> None:
        """Run forward and backward of some batches, then update the weights once.

        Args:
            plans: Ids of the batches.
            first: Number of the first of them in the epoch.
            batches: Iterator over the batches.
        """
        c = self.config
        factor = lr_factor(self.global_step, self.steps_per_epoch * c.epochs, c.warmup, c.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr * group["scale"] * factor
        self.towers.train()
        self.optimizer.zero_grad(set_to_none=True)
        for number, plan in enumerate(plans, first):
            with self._sync_gradients(is_last=plan is plans[-1]):
                loss = self.compute_loss(plan, number, next(batches))
                (loss / len(plans)).backward()
            self.check_pending_values()  # of the previous batch, while a GPU computes this one
            self._enqueue_value("loss", loss.detach(), [plan], number)
            if c.loss.name == "hinge" and c.loss.negatives == "hardest" and self.epoch >= c.all_negatives_epochs:
                self._enqueue_value("hinge", getattr(self.loss, "base_value", self._vector_loss), [plan], number)
        average_gradients(self.losses_with_parameters)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm)
        # A gradient may overflow although the loss does not. The check runs before any checkpoint is written.
        self._enqueue_value("gradient's norm", norm, plans, first)
        self.optimizer.step()
        # The decay is small in the first steps; otherwise the initial weights would remain in the average.
        update_ema(self.ema_model, self.model, min(c.ema, (1 + self.global_step) / (10 + self.global_step)))

    def _sync_gradients(self, is_last: bool) -> AbstractContextManager[Any]:
        """Add gradients over the processes only in the last batch of a step."""
        return nullcontext() if is_last or self.world == 1 else self.towers.no_sync()

    def compute_loss(self, plan: BatchIds, number: int, batch: TrainingBatch) -> Tensor:
        """Compute the loss of a complete batch from the share of this process.

        Args:
            plan: Ids of the batch.
            number: Number of the batch in the epoch.
            batch: The share of this process.
        """
        c, device = self.config, self.device
        seeds = [c.seed, self.epoch, number, self.rank]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))  # for dropout
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=c.bf16):
            batch = map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
            image_part, groups = self.towers(batch)
        shares = [rank_slices(plan, rank, self.world) for rank in range(self.world)]
        num_images, num_captions = ([share[side].stop - share[side].start for share in shares] for side in (0, 1))
        images = all_gather_with_grad(image_part.vectors, num_images)
        captions = all_gather_with_grad(torch.cat([group.vectors for group in groups])[batch.order], num_captions)
        labels = torch.tensor([self.label_by_image_id[name] for name in plan.images])
        caption_labels = labels[torch.tensor(plan.image_index)].to(device)
        labels = labels.to(device)
        loss = self.all_negatives_loss if self.all_negatives_loss and self.epoch < c.all_negatives_epochs else self.loss
        value: Tensor = loss(images, captions, labels, caption_labels)
        self._vector_loss = value.detach()
        if self.alignment_loss is not None:
            rows = [group.rows for group in groups]
            alignments = all_pairs_alignment(image_part.rows, rows, batch.order, (num_images, num_captions))
            value = value + c.loss.alignment_weight * self.alignment_loss.alignment_loss(
                alignments, labels, caption_labels
            )
        return value

    def _enqueue_value(self, kind: str, value: Tensor, plans: list[BatchIds], number: int) -> None:
        """Start to copy a value to the CPU; on a GPU the copy runs asynchronously."""
        copied = torch.cuda.Event() if value.is_cuda else None
        value = value.to("cpu", non_blocking=True)
        if copied:
            copied.record()
        self._pending_values.append(PendingValue(kind, value, copied, plans, number))

    def check_pending_values(self) -> None:
        """Check the losses and gradient norms that were computed since the last call.

        Raises:
            ValueError: One of them is not finite; the message names the epoch, the batch and its images.
        """
        for pending in self._pending_values:
            if pending.copied:
                pending.copied.synchronize()
            value = pending.value
            if not value.isfinite():
                images = [name for plan in pending.plans for name in plan.images]
                raise ValueError(
                    f"The {pending.kind} is {value.item()} in epoch {self.epoch + 1}, batch {pending.number + 1}, on "
                    f"the images {', '.join(images)}. Check their features, or lower train.lr (now {self.config.lr})."
                )
            if pending.kind == "loss":
                self.losses.append(value.item())
            if pending.kind == "hinge":
                self._warn_on_plateau(value.item(), len(pending.plans[0].captions))
        self._pending_values = []

    def _warn_on_plateau(self, loss: float, num_captions: int) -> None:
        """Warn, once, if the hinge loss with hardest negatives has the value that equal vectors give."""
        c = self.config
        self._plateau_batches = self._plateau_batches + 1 if is_on_plateau(loss, num_captions, c.loss) else 0
        if self._plateau_batches == PLATEAU_BATCHES and not (self.rank or self._warned):
            self._warned = True
            warnings.warn(
                f"The hinge loss has been two margins ({2 * c.loss.margin:g} per pair) for {PLATEAU_BATCHES} batches, "
                f"in epoch {self.epoch + 1}: all vectors are equal, and the gradient is 0. Stop the training. Then "
                "train the first epochs against all negatives (train.all_negatives_epochs=1 or more), lower train.lr, "
                "or raise train.warmup.",
                stacklevel=2,
            )

    def stateful_parts(self) -> dict[str, Any]:
        """Return everything with a `state_dict`, by its key in the checkpoint."""
        parts = {"model": self.model, "averaged": self.ema_model, "loss": self.loss, "optimizer": self.optimizer}
        return parts if self.alignment_loss is None else parts | {"alignment_loss": self.alignment_loss}

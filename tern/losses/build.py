"""From a config to a loss; one that does not fit is refused at once, by name and with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss
from tern.losses.contrastive import Hinge, InfoNCE
from tern.losses.memory import CrossBatchMemory
from tern.losses.vicreg import WithVICReg

if TYPE_CHECKING:
    from tern.losses.metric_learning import MetricLearningLoss


def build_loss(config: LossConfig) -> CrossModalLoss:
    """The loss as a module: `(images (m, e), captions (n, e), labels (m,), labels (n,)) -> scalar`.

    All it learns are its parameters, all it remembers is in its `state_dict`.

    Raises:
        ValueError: no such loss, or one that cannot compare two sets of vectors by labels alone
    """
    plain = {"hinge": Hinge, "infonce": InfoNCE}
    loss = plain[config.name](config) if config.name in plain else build_metric_learning_loss(config)
    if config.memory_size:
        loss = CrossBatchMemory(loss, config.memory_size, config.memory_start_batch)
    return WithVICReg(loss, config.vicreg_weight) if config.vicreg_weight else loss


def build_metric_learning_loss(config: LossConfig) -> MetricLearningLoss:
    """A loss of the library, tried out; ValueError if it does not fit."""
    from tern.losses.metric_learning import (
        MetricLearningLoss,  # and with it scipy: a second that the plain losses do not need
    )

    try:
        loss = MetricLearningLoss(config)
        check_loss_runs(loss)
    except Exception as error:  # each class refuses in its own way; the reason is passed on
        raise ValueError(
            f"loss {config.name!r} (miner {config.miner!r}, params {config.params}) does not fit images against "
            f"captions: {error}; try hinge, infonce, SupConLoss or MultiSimilarityLoss"
        ) from error
    return loss


def check_loss_runs(loss: MetricLearningLoss) -> None:
    """Run a loss on 4 images and 8 captions: one that cannot take `ref_emb` fails now, not in an hour."""
    draw = torch.Generator().manual_seed(0)
    images, captions = (F.normalize(torch.randn(k, 8, generator=draw), dim=1) for k in (4, 8))
    values = []
    for _ in range(2):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values.append(loss(images, captions, torch.arange(4), torch.arange(4).repeat_interleave(2)))
    if values[0].ndim or not values[0].isfinite():
        raise ValueError(f"it gives {values[0]} on a sound batch")
    if values[0] != values[1]:
        raise ValueError("it gives two values on one batch: it keeps a state that a resumed run would lack")

"""Build the loss of a configuration. A loss that does not fit is rejected at once, with its name and the reason."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss
from tern.losses.contrastive import Hinge, InfoNCE
from tern.losses.halves import HalvesLoss, MeanHinge
from tern.losses.memory import CrossBatchMemory
from tern.losses.vicreg import WithVICReg


def build_loss(config: LossConfig, pooled_half: bool = False) -> CrossModalLoss:
    """Build a loss: `(images (m, e), captions (n, e), labels (m,), labels (n,)) -> scalar`.

    What the loss learns are its parameters; what it remembers is in its `state_dict`.

    Args:
        config: Settings of the loss.
        pooled_half: Whether the second half of a vector has the loss of VSE-infinity, and the first one that of
            `config`.

    Raises:
        ValueError: The loss is unknown, or cannot compare two sets of vectors by labels.
    """
    losses = {"hinge": Hinge, "infonce": InfoNCE}
    loss = losses[config.name](config) if config.name in losses else build_metric_learning_loss(config)
    if config.memory_size:
        loss = CrossBatchMemory(loss, config.memory_size, config.memory_start_batch)
    loss = WithVICReg(loss, config.vicreg_weight) if config.vicreg_weight else loss
    return HalvesLoss(loss, MeanHinge(config)) if pooled_half else loss


def build_all_negatives_loss(config: LossConfig, loss: CrossModalLoss) -> CrossModalLoss | None:
    """Build the loss of the first epochs, in which `hinge` sums over all negatives.

    Args:
        config: Settings of the loss.
        loss: Loss of the other epochs, from `build_loss`. What it learns is learned in the first epochs too.

    Returns:
        The loss; None if no part of it is `hinge`.
    """
    all_negatives = config.model_copy(update={"negatives": "all", "memory_size": 0})
    if not isinstance(loss, HalvesLoss):
        return build_loss(all_negatives) if config.name == "hinge" else None
    first = build_loss(all_negatives) if config.name == "hinge" else loss.first
    return HalvesLoss(first, MeanHinge(all_negatives))


def build_metric_learning_loss(config: LossConfig) -> CrossModalLoss:
    """Build and try out a loss of PyTorch Metric Learning.

    Raises:
        ValueError: The loss, its miner or its parameters do not fit.
    """
    from tern.losses.metric_learning import MetricLearningLoss  # lazy: imports scipy, which takes a second

    try:
        loss = MetricLearningLoss(config)
        check_loss_runs(loss)
    except Exception as error:  # each class of the library raises its own kind
        raise ValueError(
            f"loss {config.name!r} (miner {config.miner!r}, params {config.params}) does not fit images against "
            f"captions: {error}. Use hinge, infonce, SupConLoss or MultiSimilarityLoss."
        ) from error
    return loss


def check_loss_runs(loss: CrossModalLoss) -> None:
    """Run a loss on 4 images and 8 captions.

    A loss that does not support `ref_emb` fails here and not during training.

    Raises:
        ValueError: The value is not a finite scalar, or two runs give different values.
    """
    draw = torch.Generator().manual_seed(0)
    images, captions = (F.normalize(torch.randn(k, 8, generator=draw), dim=1) for k in (4, 8))
    values = []
    for _ in range(2):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values.append(loss(images, captions, torch.arange(4), torch.arange(4).repeat_interleave(2)))
    if values[0].ndim or not values[0].isfinite():
        raise ValueError(f"its value on a valid batch is {values[0]}")
    if values[0] != values[1]:
        raise ValueError("it returns two values for one batch, so it has a state that a resumed run would lack")

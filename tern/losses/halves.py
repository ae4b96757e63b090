"""The loss of vectors of two halves, which two networks compute (`pooled_half`)."""

from __future__ import annotations

import torch
from torch import Tensor

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss
from tern.losses.contrastive import Hinge

UNIT_SCALE = 2**0.5  # makes a half of a vector, of length sqrt(1/2), a unit vector


class HalvesLoss(CrossModalLoss):
    """The sum of one loss of the first halves and another of the second halves.

    Each half is compared by itself, so that neither network relies on the other one. The attribute `base_value` is the
    last value of the first loss, without its VICReg term.

    Args:
        first: Loss of the first halves.
        second: Loss of the second halves.
    """

    def __init__(self, first: CrossModalLoss, second: CrossModalLoss) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.base_value = torch.tensor(0.0)

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the loss: images (m, e), captions (n, e), labels (m,) and (n,) -> scalar."""
        half = images.shape[1] // 2
        images, captions = images * UNIT_SCALE, captions * UNIT_SCALE
        labels = image_ids, caption_ids
        first = self.first.symmetric_loss(images[:, :half], captions[:, :half], *labels)
        self.base_value = getattr(self.first, "base_value", first.detach())
        return first + self.second.symmetric_loss(images[:, half:], captions[:, half:], *labels)


class MeanHinge(Hinge):
    """The hinge loss of VSE-infinity as a mean over pairs, and over negatives where it compares with all of them.

    A sum over all negatives would have gradients in the first epoch that are a hundred times those over the hardest
    negatives in the next ones. AdamW divides by their average, so it would hardly train the half after that epoch.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__(config.model_copy(update={"reduction": "mean"}))

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Compute one direction from scores (m, n) and positive pairs (m, n) bool; anchors are rows."""
        value = super().loss_from_scores(scores, positive)
        return value / scores.shape[1] if self.config.negatives == "all" else value

"""The two losses written here: the hinge of VSE++, and InfoNCE with a temperature that is learnt.

Shapes: m images, n captions, p positive pairs; in one way anchors are rows of the scores.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss, reduce


class ScoreMatrixLoss(CrossModalLoss):
    """A loss that needs the scores alone: one product serves both ways."""

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar"""
        scores = self.scores(images, captions)  # (m, n)
        positive = image_ids[:, None] == caption_ids[None, :]  # (m, n)
        return self.loss_from_scores(scores, positive) + self.loss_from_scores(scores.T, positive.T)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """anchors (a, e), others (o, e), their labels -> scalar"""
        return self.loss_from_scores(self.scores(anchors, others), labels[:, None] == other_labels[None, :])

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """rows (m, e), columns (n, e) -> (m, n) cosines"""
        return rows @ columns.T

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Anchors in rows: scores (m, n), positive (m, n) bool -> scalar"""
        raise NotImplementedError


class Hinge(ScoreMatrixLoss):
    """VSE++ hinge: each positive pair against true negatives of its row and of its column.

    With `hardest` and `sum` this is the loss of the TERN authors, less their false negatives; it
    equals TripletMarginLoss with BatchEasyHardMiner("all", "hard") of pytorch_metric_learning. `semihard` takes the
    hardest of the negatives that score below the positive (FaceNet, section 3.2); a pair without one adds nothing.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Anchors in rows: scores (m, n), positive (m, n) bool -> scalar"""
        row, column = positive.nonzero(as_tuple=True)  # (p,) positive pairs
        right = scores[row, column][:, None]  # (p, 1)
        negative = scores.masked_fill(positive, float("-inf"))  # (m, n)
        if self.config.negatives == "hardest":
            worst = negative.amax(dim=1, keepdim=True)[row]  # (p, 1)
        elif self.config.negatives == "semihard":
            below = negative[row]  # (p, n)
            worst = below.masked_fill(below >= right, float("-inf")).amax(dim=1, keepdim=True)  # (p, 1)
        else:
            worst = negative[row]  # (p, n)
        return reduce(F.relu(self.config.margin - right + worst).sum(dim=1), self.config.reduction)


class InfoNCE(ScoreMatrixLoss):
    """Cross-entropy of the softmax over the batch, the target spread evenly over the positives.

    Equal to SupConLoss of pytorch_metric_learning by `ref_emb`, and to CLIP's loss when each image
    has one caption. An anchor without a positive in the batch adds nothing.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.reduction = config.reduction
        start = torch.tensor(math.log(1 / config.temperature))
        self.log_scale = nn.Parameter(start, requires_grad=config.learn_temperature)

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """rows (m, e), columns (n, e) -> (m, n) cosines over the temperature"""
        with torch.no_grad():
            # 100 as CLIP has it: beyond that a few pairs take all of the gradient. The parameter itself is held: a
            # clamp in the graph would leave it without a gradient for good.
            self.log_scale.clamp_(0, math.log(100))
        return self.log_scale.exp() * rows @ columns.T

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Anchors in rows: scores (m, n), positive (m, n) bool -> scalar"""
        count = positive.sum(dim=1)  # (m,)
        each = -(positive * scores.log_softmax(dim=1)).sum(dim=1) / count.clamp(min=1)  # (m,)
        return reduce(each[count > 0], self.reduction)

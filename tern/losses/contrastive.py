"""The losses of this package: the hinge loss of VSE++, and InfoNCE with a learned temperature.

Shapes: m images, n captions, p positive pairs, e embedding. Anchors are rows of the score matrix.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss, reduce


class ScoreMatrixLoss(CrossModalLoss):
    """A loss that needs only the score matrix, so that one matrix product serves both directions."""

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the sum of both directions: images (m, e), captions (n, e), labels (m,) and (n,) -> scalar."""
        scores = self.scores(images, captions)  # (m, n)
        positive = image_ids[:, None] == caption_ids[None, :]  # (m, n)
        return self.loss_from_scores(scores, positive) + self.loss_from_scores(scores.T, positive.T)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """Compute one direction: anchors (a, e) with labels (a,), others (o, e) with labels (o,) -> scalar."""
        return self.loss_from_scores(self.scores(anchors, others), labels[:, None] == other_labels[None, :])

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute cosines: rows (m, e), columns (n, e) -> (m, n)."""
        return rows @ columns.T

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Compute one direction from scores (m, n) and positive pairs (m, n) bool; anchors are rows."""
        raise NotImplementedError


class Hinge(ScoreMatrixLoss):
    """Hinge loss of VSE++: each positive pair against the negatives of its row and of its column.

    With `hardest` and `sum` it is the loss of the TERN authors without their false negatives. It then equals
    TripletMarginLoss with BatchEasyHardMiner("all", "hard") of PyTorch Metric Learning. `semihard` takes the hardest
    negative that scores below the positive (FaceNet, section 3.2); a pair without one adds nothing.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Compute one direction from scores (m, n) and positive pairs (m, n) bool; anchors are rows."""
        row, column = positive.nonzero(as_tuple=True)  # (p,) positive pairs
        positive_scores = scores[row, column][:, None]  # (p, 1)
        negative = scores.masked_fill(positive, float("-inf"))  # (m, n)
        if self.config.negatives == "hardest":
            negative_scores = negative.amax(dim=1, keepdim=True)[row]  # (p, 1)
        elif self.config.negatives == "semihard":
            candidates = negative[row]  # (p, n)
            candidates = candidates.masked_fill(candidates >= positive_scores, float("-inf"))  # (p, n)
            negative_scores = candidates.amax(dim=1, keepdim=True)  # (p, 1)
        else:
            negative_scores = negative[row]  # (p, n)
        values = F.relu(self.config.margin - positive_scores + negative_scores).sum(dim=1)  # (p,)
        return reduce(values, self.config.reduction)


class InfoNCE(ScoreMatrixLoss):
    """Cross-entropy of the softmax over the batch; the target is distributed evenly over the positives.

    It equals SupConLoss of PyTorch Metric Learning with `ref_emb`, and the loss of CLIP if each image has one caption.
    An anchor without a positive in the batch adds nothing.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.reduction = config.reduction
        start = torch.tensor(math.log(1 / config.temperature))
        self.log_scale = nn.Parameter(start, requires_grad=config.learn_temperature)

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute cosines divided by the temperature: rows (m, e), columns (n, e) -> (m, n)."""
        return self._clamp_scale() * rows @ columns.T

    def alignment_loss(self, alignments: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the sum of both directions from alignment scores.

        Args:
            alignments: (m, n) scores of m images and n captions, -1 to 1.
            image_ids: (m,) integer labels.
            caption_ids: (n,) integer labels.
        """
        scores, positive = self._clamp_scale() * alignments, image_ids[:, None] == caption_ids[None, :]
        return self.loss_from_scores(scores, positive) + self.loss_from_scores(scores.T, positive.T)

    def _clamp_scale(self) -> Tensor:
        with torch.no_grad():
            # The limit of 100 is CLIP's: above it, a few pairs have all of the gradient. The parameter itself is
            # clamped, because a clamp in the graph would leave it without a gradient permanently.
            self.log_scale.clamp_(0, math.log(100))
        return self.log_scale.exp()

    def loss_from_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Compute one direction from scores (m, n) and positive pairs (m, n) bool; anchors are rows."""
        count = positive.sum(dim=1)  # (m,)
        values = -(positive * scores.log_softmax(dim=1)).sum(dim=1) / count.clamp(min=1)  # (m,)
        return reduce(values[count > 0], self.reduction)

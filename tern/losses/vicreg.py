"""The VICReg term (Bardes et al. 2022): keeps vectors from collapsing to a few dimensions or to one point.

Shapes: m images, n captions, k vectors, e embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tern.losses.base import CrossModalLoss

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # weights of the paper
EPSILON = 1e-4


class WithVICReg(CrossModalLoss):
    """A loss plus `weight` times the VICReg term of the same batch.

    The attribute `base_value` is the last value of the loss without the term.
    """

    def __init__(self, loss: CrossModalLoss, weight: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight
        self.base_value = torch.tensor(0.0)

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the loss with the term: images (m, e), captions (n, e), labels (m,) and (n,) -> scalar."""
        value = self.loss.symmetric_loss(images, captions, image_ids, caption_ids)
        self.base_value = value.detach()
        return value + self.weight * vicreg_loss(images, captions, image_ids, caption_ids)


def vicreg_loss(images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """Compute 25 s + 25 v + c over the positive pairs and both modalities.

    s is the mean squared difference of positive pairs. v is the mean of max(0, 1 - standard deviation) over the
    dimensions, halved for each modality. c is the sum of the squared off-diagonal covariances divided by e, of both
    modalities. The paper has unconstrained vectors that can reach a standard deviation of 1. Unit vectors are therefore
    scaled by sqrt(e): they have a standard deviation of 1 if all dimensions are used equally. With one caption per
    image, the value equals VICRegLoss of PyTorch Metric Learning.

    Args:
        images: (m, e) unit vectors.
        captions: (n, e) unit vectors.
        image_ids: (m,) labels.
        caption_ids: (n,) labels.

    Returns:
        A scalar. Variance and covariance of a single row are 0.
    """
    scale = images.shape[1] ** 0.5
    row, column = (image_ids[:, None] == caption_ids[None, :]).nonzero(as_tuple=True)
    images, captions = images * scale, captions * scale
    invariance = (images[row] - captions[column]).square().mean(dim=1).sum() / max(1, len(row))
    return INVARIANCE * invariance + variance_covariance_loss(images) + variance_covariance_loss(captions)


def variance_covariance_loss(rows: Tensor) -> Tensor:
    """Compute the weighted variance and covariance parts of one modality: rows (k, e) -> scalar."""
    if len(rows) < 2:
        return rows.sum() * 0
    deviation = (rows.var(dim=0) + EPSILON).sqrt()  # (e,)
    centered = rows - rows.mean(dim=0)
    covariance = centered.T @ centered / (len(rows) - 1)  # (e, e)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return VARIANCE * F.relu(1 - deviation).mean() / 2 + COVARIANCE * off_diagonal / rows.shape[1]

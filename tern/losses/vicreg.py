"""The VICReg term (Bardes et al. 2022): what keeps vectors from falling onto few dimensions or onto one point."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tern.losses.base import CrossModalLoss

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # the paper's weights
EPSILON = 1e-4


class WithVICReg(CrossModalLoss):
    """A loss and `weight` times the VICReg term of the same batch; `alone` is what the loss without it was."""

    def __init__(self, loss: CrossModalLoss, weight: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight
        self.base_value = torch.tensor(0.0)

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar"""
        value = self.loss.symmetric_loss(images, captions, image_ids, caption_ids)
        self.base_value = value.detach()
        return value + self.weight * vicreg_loss(images, captions, image_ids, caption_ids)


def vicreg_loss(images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """25 s + 25 v + c over the positive pairs and both modalities.

    s is the mean squared difference of positive pairs, v the mean of max(0, 1 - deviation) over the dimensions, halved
    for each modality, c the sum of the squared covariances off the diagonal over e, of both. The paper has free
    vectors with a deviation of 1 to reach; unit vectors are stretched by sqrt(e), so that 1 is what they have when all
    dimensions are used alike. With one caption an image it equals VICRegLoss of pytorch_metric_learning.

    images (m, e), captions (n, e), labels (m,) and (n,) -> scalar; 0 variance and covariance for a single row
    """
    stretch = images.shape[1] ** 0.5
    row, column = (image_ids[:, None] == caption_ids[None, :]).nonzero(as_tuple=True)
    images, captions = images * stretch, captions * stretch
    apart = (images[row] - captions[column]).square().mean(dim=1).sum() / max(1, len(row))
    return INVARIANCE * apart + variance_covariance_loss(images) + variance_covariance_loss(captions)


def variance_covariance_loss(rows: Tensor) -> Tensor:
    """rows (k, e) -> scalar, the weighted variance and covariance parts of one modality"""
    if len(rows) < 2:
        return rows.sum() * 0
    deviation = (rows.var(dim=0) + EPSILON).sqrt()  # (e,)
    centered = rows - rows.mean(dim=0)
    covariance = centered.T @ centered / (len(rows) - 1)  # (e, e)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    return VARIANCE * F.relu(1 - deviation).mean() / 2 + COVARIANCE * off / rows.shape[1]

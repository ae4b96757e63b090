"""The interface of all losses: images against captions, and captions against images.

Shapes: m images, n captions, a anchors, o other vectors, e embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossModalLoss(nn.Module):
    """A loss of two sets of unit vectors with labels: the sum of both directions.

    Labels are integers that stand for image ids. Pairs with equal labels are positive, all others are negative. Two
    vectors of one modality are never compared. A subclass defines the loss of one direction.
    """

    def forward(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            images: (m, e) unit vectors.
            captions: (n, e) unit vectors.
            image_ids: (m,) integer labels.
            caption_ids: (n,) integer labels.

        Returns:
            A scalar.

        Raises:
            ValueError: The shapes do not fit, or the labels are not integers.
        """
        batch = validate_batch(images, captions, image_ids, caption_ids)
        # Cosines in half precision have steps of 0.004 near 1, which is as large as the differences that matter here.
        with torch.autocast(images.device.type, enabled=False):
            return self.symmetric_loss(*batch)

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the sum of both directions.

        Args:
            images: (m, e) unit vectors, float32 or float64, as `validate_batch` returns them.
            captions: (n, e) unit vectors of the same dtype.
            image_ids: (m,) integer labels on the device of `images`.
            caption_ids: (n,) integer labels on the device of `captions`.

        Returns:
            A scalar.
        """
        i2t = self.one_direction_loss(images, image_ids, captions, caption_ids)
        return i2t + self.one_direction_loss(captions, caption_ids, images, image_ids)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """Compute the loss of one direction; each subclass defines it.

        Args:
            anchors: (a, e) unit vectors of one modality.
            labels: (a,) integer labels of the anchors.
            others: (o, e) unit vectors of the other modality, which the anchors are compared with.
            other_labels: (o,) integer labels of the others.

        Returns:
            A scalar.
        """
        raise NotImplementedError


def validate_batch(
    images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the arguments of `CrossModalLoss.forward` and convert them for a loss.

    Returns:
        The vectors in float32 (or float64), and the labels on the device of their vectors.

    Raises:
        ValueError: The shapes do not fit, or the labels are not integers.
    """
    shapes = [tuple(part.shape) for part in (images, captions, image_ids, caption_ids)]
    fits = images.ndim == captions.ndim == 2 and shapes[0][1] == shapes[1][1]
    if not fits or shapes[2] != shapes[0][:1] or shapes[3] != shapes[1][:1]:
        raise ValueError(
            f"images {shapes[0]}, captions {shapes[1]}, their labels {shapes[2]} and {shapes[3]} do not fit. Pass "
            "shapes (m, e), (n, e), (m,) and (n,)."
        )
    if image_ids.is_floating_point() or caption_ids.is_floating_point():
        raise ValueError("The labels have a floating-point dtype. Pass integers that stand for image ids.")
    images, captions = (part if part.dtype == torch.float64 else part.float() for part in (images, captions))
    return images, captions, image_ids.to(images.device), caption_ids.to(captions.device)


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Reduce values (k,) to a scalar; no values give 0.

    Args:
        values: (k,).
        reduction: `sum`, `mean`, or `nonzero` for the mean over values above 0.
    """
    count = (values > 0).sum() if reduction == "nonzero" else torch.tensor(len(values))
    return values.sum() if reduction == "sum" else values.sum() / count.clamp(min=1)

"""The common shape of all losses: images against captions, and captions against images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossModalLoss(nn.Module):
    """A loss of two sets of unit vectors by labels, the sum of both ways; a kind of loss says what one way is.

    Labels are whole numbers that stand for image ids. Positive pairs are those of equal labels, however many; the
    rest are negatives. Two vectors of one modality are never compared.
    """

    def forward(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar; ValueError if they do not belong together"""
        batch = validate_batch(images, captions, image_ids, caption_ids)
        # cosines of half precision have steps of 0.004 near 1, as wide as what a loss tells apart
        with torch.autocast(images.device.type, enabled=False):
            return self.symmetric_loss(*batch)

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,), as `sound` gives them -> scalar"""
        one = self.one_direction_loss(images, image_ids, captions, caption_ids)
        return one + self.one_direction_loss(captions, caption_ids, images, image_ids)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """anchors (a, e), others (o, e), their labels -> scalar"""
        raise NotImplementedError


def validate_batch(
    images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with vectors in float32 (or float64) and labels beside them; ValueError if shapes do not fit."""
    shapes = [tuple(part.shape) for part in (images, captions, image_ids, caption_ids)]
    fits = images.ndim == captions.ndim == 2 and shapes[0][1] == shapes[1][1]
    if not fits or shapes[2] != shapes[0][:1] or shapes[3] != shapes[1][:1]:
        raise ValueError(
            f"images {shapes[0]}, captions {shapes[1]}, their labels {shapes[2]} and {shapes[3]}; give (m, e), (n, e), "
            "(m,) and (n,)"
        )
    if image_ids.is_floating_point() or caption_ids.is_floating_point():
        raise ValueError("labels are of a floating type; give whole numbers that stand for image ids")
    rows = [part if part.dtype == torch.float64 else part.float() for part in (images, captions)]
    return (*rows, image_ids.to(images.device), caption_ids.to(captions.device))


def reduce(values: Tensor, how: str) -> Tensor:
    """values (k,) -> scalar; nothing adds up to 0, with a gradient of 0"""
    count = (values > 0).sum() if how == "nonzero" else torch.tensor(len(values))
    return values.sum() if how == "sum" else values.sum() / count.clamp(min=1)

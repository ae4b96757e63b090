"""Cross-batch memory: vectors of earlier batches to compare with (Wang et al. 2020, XBM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tern.losses.base import CrossModalLoss


class CrossBatchMemory(CrossModalLoss):
    """A loss that compares the batch also with the last vectors of each modality.

    Images are compared with the captions of the batch and of the caption queue, captions with the images of the batch
    and of the image queue. Vectors of the batch keep their gradient; queued vectors have none and are not anchors.
    Labels are compared across batches, so a label must mean the same image throughout training. The queues are buffers
    in the `state_dict`, so a resumed run continues with the same vectors. In eval mode the queues are read, but nothing
    is added.

    Args:
        loss: Loss of one direction.
        size: Vectors per queue.
        start_batch: Number of first batches in which the queues are filled but not read.
    """

    images: Tensor  # (k, e), oldest first
    captions: Tensor  # (k, e)
    image_ids: Tensor  # (k,)
    caption_ids: Tensor  # (k,)
    batches: Tensor  # scalar: number of batches so far

    def __init__(self, loss: CrossModalLoss, size: int, start_batch: int = 0) -> None:
        super().__init__()
        self.loss, self.size, self.start_batch = loss, size, start_batch
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        for name in ("images", "captions"):
            self.register_buffer(name, torch.zeros(0, 0))
        for name in ("image_ids", "caption_ids"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Compute the loss, then add the batch to the queues.

        images (m, e), captions (n, e), labels (m,) and (n,) -> scalar.
        """
        if not self.images.numel() and not self.captions.numel():
            self.images, self.captions = images.new_zeros(0, images.shape[1]), captions.new_zeros(0, images.shape[1])
        if self.images.shape[1] != images.shape[1]:
            raise ValueError(
                f"The vectors have {images.shape[1]} dimensions, but the memory holds "
                f"{self.images.shape[1]}-dimensional vectors. Use one memory per model."
            )
        all_captions, all_caption_ids, all_images, all_image_ids = captions, caption_ids, images, image_ids
        if self.batches >= self.start_batch:
            all_captions = torch.cat([captions, self.captions])
            all_caption_ids = torch.cat([caption_ids, self.caption_ids])
            all_images, all_image_ids = torch.cat([images, self.images]), torch.cat([image_ids, self.image_ids])
        value = self.loss.one_direction_loss(images, image_ids, all_captions, all_caption_ids)
        value = value + self.loss.one_direction_loss(captions, caption_ids, all_images, all_image_ids)
        if self.training:
            self.batches += 1
            batch = {"images": images, "image_ids": image_ids, "captions": captions, "caption_ids": caption_ids}
            for name, rows in batch.items():
                self.enqueue(name, rows)
        return value

    def enqueue(self, name: str, rows: Tensor) -> None:
        """Append rows to the queue `name` and drop the oldest ones above `size`."""
        queue = getattr(self, name)
        setattr(self, name, torch.cat([queue, rows.detach().to(queue.dtype)])[-self.size :])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The length of a queue depends on the number of batches so far, so the buffers take the size of the loaded
        # ones.
        for name, queue in self.named_buffers(recurse=False):
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=queue.device))
        super()._load_from_state_dict(state, prefix, *rest)

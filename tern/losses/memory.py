"""Cross-batch memory: vectors of earlier batches as further rows to compare with (Wang et al. 2020, XBM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tern.losses.base import CrossModalLoss


class CrossBatchMemory(CrossModalLoss):
    """A loss that sees, beside the batch, the last vectors of each modality.

    Two queues: images are compared with the captions of the batch and of the caption queue, captions with the images of
    the batch and of the image queue. Rows of the batch keep their gradient, queued ones have none and are no anchors.
    Labels are compared across batches, so they must mean the same image all through training. The queues are buffers:
    `state_dict` has them, and a resumed run goes on with the same rows. In eval mode they are read, not filled. For the
    first `after` batches they are filled, not read.
    """

    images: Tensor  # (k, e), the oldest first
    captions: Tensor  # (k, e)
    image_ids: Tensor  # (k,)
    caption_ids: Tensor  # (k,)
    batches: Tensor  # () seen so far

    def __init__(self, loss: CrossModalLoss, size: int, start_batch: int = 0) -> None:
        super().__init__()
        self.loss, self.size, self.after = loss, size, start_batch
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        for name in ("images", "captions"):
            self.register_buffer(name, torch.zeros(0, 0))
        for name in ("image_ids", "caption_ids"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    def symmetric_loss(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar; then the batch enters the queues"""
        if not self.images.numel() and not self.captions.numel():
            self.images, self.captions = images.new_zeros(0, images.shape[1]), captions.new_zeros(0, images.shape[1])
        if self.images.shape[1] != images.shape[1]:
            raise ValueError(f"vectors of {images.shape[1]} dimensions, but the memory holds {self.images.shape[1]}")
        told, told_ids, seen, seen_ids = captions, caption_ids, images, image_ids
        if self.batches >= self.after:
            told, told_ids = torch.cat([captions, self.captions]), torch.cat([caption_ids, self.caption_ids])
            seen, seen_ids = torch.cat([images, self.images]), torch.cat([image_ids, self.image_ids])
        one = self.loss.one_direction_loss(images, image_ids, told, told_ids)
        value = one + self.loss.one_direction_loss(captions, caption_ids, seen, seen_ids)
        if self.training:
            self.batches += 1
            self.enqueue("images", images), self.enqueue("image_ids", image_ids)
            self.enqueue("captions", captions), self.enqueue("caption_ids", caption_ids)
        return value

    def enqueue(self, name: str, rows: Tensor) -> None:
        """Put rows behind the queue and let go of the oldest."""
        queue = getattr(self, name)
        setattr(self, name, torch.cat([queue, rows.detach().to(queue.dtype)])[-self.size :])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # how many rows a queue has depends on the batches so far: it takes the size of what is loaded
        for name, queue in self.named_buffers(recurse=False):
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=queue.device))
        super()._load_from_state_dict(state, prefix, *rest)

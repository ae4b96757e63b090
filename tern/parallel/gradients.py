"""Vectors and gradients of several processes: each embeds its share of a batch, and each has the vectors of all.

Every process computes the loss of the complete batch. Its gradient flows back to each share, and
DistributedDataParallel adds the shares. n processes therefore compute what one process computes with the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tern.networks.alignment import Encoding, RowBatch, alignment_scores, encode_captions, encode_images
from tern.networks.inputs import TrainingBatch
from tern.parallel.group import get_rank_and_world_size


class TwoTowerForward(nn.Module):
    """Encode images and captions in one forward pass, as DistributedDataParallel requires.

    Args:
        model: Network with `embed_images` and `embed_captions`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TrainingBatch) -> tuple[Encoding, tuple[Encoding, ...]]:
        """Encode the images of a batch, and its captions group by group."""
        captions = tuple(encode_captions(self.model, group.features, group.mask) for group in batch.captions)
        return encode_images(self.model, batch.images), captions


class AllGatherWithGrad(torch.autograd.Function):
    """Gather the rows of all processes, in the order of ranks.

    Each process receives the gradient of its own rows.
    """

    @staticmethod
    def forward(ctx: Any, local_rows: Tensor, counts: Sequence[int]) -> Tensor:  # noqa: D102  # the interface of torch
        ctx.counts = counts
        padding = [0, 0] * (local_rows.ndim - 1) + [0, max(counts) - len(local_rows)]
        padded = F.pad(local_rows, padding)  # gloo gathers tensors of equal shape only
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded.contiguous())
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102  # the interface of torch
        # Every process computes the same loss of the same rows, so its slice of the gradient is complete and nothing
        # needs to be sent. DistributedDataParallel then averages over processes where a sum is required, hence the
        # factor.
        local_gradient = gradient.split(list(ctx.counts))[dist.get_rank()]
        return local_gradient * len(ctx.counts), None


def all_gather_with_grad(local_rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gather the rows of all processes.

    Args:
        local_rows: (counts[rank], ...) rows of this process.
        counts: Number of rows per process.

    Returns:
        (sum of counts, ...).
    """
    rows: Tensor = AllGatherWithGrad.apply(local_rows, counts) if len(counts) > 1 else local_rows
    return rows


def all_pairs_alignment(
    images: RowBatch, groups: Sequence[RowBatch], order: Tensor, counts: tuple[Sequence[int], Sequence[int]]
) -> Tensor:
    """Compute the alignment scores of all images and captions of all processes.

    Args:
        images: Rows of the images of this process.
        groups: Rows of its captions, in groups.
        order: (n,) int64: caption j of the process is row `order[j]` of the concatenated groups.
        counts: Number of images and of captions per process.

    Returns:
        (images, captions) of all processes, in their order.
    """
    if len(counts[0]) == 1:  # group by group, with the padding of each group only
        return torch.cat([alignment_scores(images, group) for group in groups], dim=1)[:, order]
    longest = max(group.mask.shape[1] for group in groups)
    padded = [_pad_rows(group, longest) for group in groups]
    captions = RowBatch(*(torch.cat(parts)[order] for parts in zip(*padded, strict=True)))
    return alignment_scores(_gather_rows(images, counts[0]), _gather_rows(captions, counts[1]))


def _gather_rows(rows: RowBatch, counts: Sequence[int]) -> RowBatch:
    """Gather the row vectors of all processes, padded to the longest item of all."""
    longest = torch.tensor(rows.mask.shape[1], device=rows.mask.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    rows = _pad_rows(rows, int(longest))
    vectors, weights = (all_gather_with_grad(part, counts) for part in (rows.vectors, rows.weights))
    mask = all_gather_with_grad(rows.mask.to(weights.dtype), counts) > 0
    return RowBatch(vectors, weights, mask)


def _pad_rows(rows: RowBatch, longest: int) -> RowBatch:
    missing = longest - rows.mask.shape[1]
    vectors, weights = F.pad(rows.vectors, (0, 0, 0, missing)), F.pad(rows.weights, (0, missing))
    return RowBatch(vectors, weights, F.pad(rows.mask, (0, missing)))


def wrap_ddp(towers: TwoTowerForward, device: str) -> nn.Module:
    """Wrap the forward pass in DistributedDataParallel if there are several processes."""
    if get_rank_and_world_size()[1] == 1:
        return towers
    return DistributedDataParallel(towers, device_ids=[torch.device(device)] if device.startswith("cuda") else None)


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a small module, such as the loss, over the processes.

    The module must not be inside DistributedDataParallel, which averages its own gradients.
    """
    world = get_rank_and_world_size()[1]
    for parameter in module.parameters():
        if world > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world

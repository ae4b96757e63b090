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

from tern.networks.inputs import TrainingBatch
from tern.parallel.group import get_rank_and_world_size


class TwoTowerForward(nn.Module):
    """Embed images and captions in one forward pass, as DistributedDataParallel requires.

    Args:
        model: Network with `embed_images` and `embed_captions`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Embed a batch of b images and n captions: (b, e) and (n, e) of unit length."""
        images = self.model.embed_images(batch.images)  # (b, e)
        captions = [self.model.embed_captions(group.features, group.mask) for group in batch.captions]
        return images, torch.cat(captions)[batch.order]  # (b, e), (n, e)


class AllGatherWithGrad(torch.autograd.Function):
    """Gather the rows of all processes, in the order of ranks.

    Each process receives the gradient of its own rows.
    """

    @staticmethod
    def forward(ctx: Any, local_rows: Tensor, counts: Sequence[int]) -> Tensor:  # noqa: D102  # the interface of torch
        ctx.counts = counts
        padded = F.pad(local_rows, (0, 0, 0, max(counts) - len(local_rows)))  # gloo gathers tensors of equal shape only
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
        local_rows: (counts[rank], e) rows of this process.
        counts: Number of rows per process.

    Returns:
        (sum of counts, e).
    """
    rows: Tensor = AllGatherWithGrad.apply(local_rows, counts) if len(counts) > 1 else local_rows
    return rows


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

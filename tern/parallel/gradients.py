"""Training in several processes, as `torchrun` starts them: each embeds its share of a batch, all see every vector.

The loss is that of the whole batch, on every process; its gradient goes back to each share, and
DistributedDataParallel adds the shares up. So n processes do what one would with the same batch.
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
    """Both towers in one forward, as DistributedDataParallel needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: TrainingBatch) -> tuple[Tensor, Tensor]:
        """A step of b images and n captions -> (b, e) and (n, e) of unit length"""
        images = step.images
        seen = self.model.embed_images(
            images.features, images.boxes, images.sizes, images.mask, images.scores, images.counts
        )
        told = torch.cat([self.model.embed_captions(group.features, group.mask) for group in step.captions])
        return seen, told[step.order]


class AllGatherWithGrad(torch.autograd.Function):
    """Rows of all processes, in the order of their ranks; the gradient of a process's own rows goes back to it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int]) -> Tensor:  # noqa: D102
        ctx.counts = counts
        padded = F.pad(own, (0, 0, 0, max(counts) - len(own)))  # gloo gathers like shapes alone
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded.contiguous())
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        # Every process has computed the same loss of the same rows, so its slice of the gradient is whole: nothing is
        # to be sent. DistributedDataParallel then takes the mean over processes where the sum is wanted.
        own = gradient.split(list(ctx.counts))[dist.get_rank()]
        return own * len(ctx.counts), None


def all_gather_with_grad(own: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows (sum of counts, e) of all processes: own (counts[rank], e), counts a process."""
    return AllGatherWithGrad.apply(own, counts) if len(counts) > 1 else own


def wrap_ddp(both: TwoTowerForward, device: str) -> nn.Module:
    """`both`, with its gradients added up over the processes if there are several."""
    if get_rank_and_world_size()[1] == 1:
        return both
    return DistributedDataParallel(both, device_ids=[torch.device(device)] if device.startswith("cuda") else None)


def average_gradients(part: nn.Module) -> None:
    """Mean over the processes of the gradients of a small part that DistributedDataParallel does not see: the loss."""
    world = get_rank_and_world_size()[1]
    for parameter in part.parameters():
        if world > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world

"""Training in several processes, as `torchrun` starts them: each embeds its share of a batch, all see every vector.

The loss is that of the whole batch, on every process; its gradient goes back to each share, and
DistributedDataParallel adds the shares up. So n processes do what one would with the same batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tern.batches import TrainingBatch

TIMEOUT = timedelta(days=1)  # that others wait while the first extracts features; a process that dies ends all at once


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


def get_rank_and_world_size() -> tuple[int, int]:
    """(rank, number of processes) of this process; (0, 1) where there is no group of them."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def broadcast_from_rank0(value: Any) -> Any:
    """What the first process has as `value`, on all of them: a small object."""
    if get_rank_and_world_size()[1] == 1:
        return value
    box = [value]
    device = current_device() if dist.get_backend() == "nccl" else "cpu"
    dist.broadcast_object_list(box, src=0, device=torch.device(device))
    return box[0]


def barrier() -> None:
    """Until every process has come here."""
    if get_rank_and_world_size()[1] > 1:
        dist.barrier()


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


def is_torchrun() -> bool:
    """Whether `torchrun` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` has started."""
    return not is_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def process_group() -> Iterator[None]:
    """Be one of the processes that `torchrun` has started, inside; nothing happens where it has not."""
    if not is_torchrun() or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process goes through the block while the others wait; then they do, and find all made."""
    rank, _ = get_rank_and_world_size()
    if rank:
        barrier()
    yield
    if not rank:
        barrier()


def current_device() -> str:
    """`cuda:0` or whichever GPU is this process's, or `cpu` where there is none."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def resolve_device(name: str) -> str:
    """The device that a setting stands for: `auto` is this process's GPU if there is one, `cuda` is it in any case."""
    own = name == "auto" or (name == "cuda" and torch.cuda.is_available())
    return current_device() if own else name

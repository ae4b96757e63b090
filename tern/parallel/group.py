"""Group of `tern`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tern.parallel.device import current_device

TIMEOUT = timedelta(days=1)  # that others wait while the first extracts features; a process that dies ends all at once


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

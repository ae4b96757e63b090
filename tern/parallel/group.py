"""The process group of torchrun: ranks, barriers, and what runs in the main process only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from tern.parallel.device import current_device

T = TypeVar("T")
# The main process extracts features while the others wait. If one process dies, torchrun ends all of them at once.
TIMEOUT = timedelta(days=1)


def get_rank_and_world_size() -> tuple[int, int]:
    """Return the rank and the number of processes of the group; (0, 1) without a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def broadcast_from_rank0(value: T) -> T:
    """Return the value of process 0 in all processes. The value must be small and picklable."""
    if get_rank_and_world_size()[1] == 1:
        return value
    box = [value]
    device = current_device() if dist.get_backend() == "nccl" else "cpu"
    dist.broadcast_object_list(box, src=0, device=torch.device(device))
    return box[0]


def barrier() -> None:
    """Wait until every process of the group has called this function."""
    if get_rank_and_world_size()[1] > 1:
        dist.barrier()


def is_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_main_process() -> bool:
    """Return whether this process is the only one, or process 0 of those that torchrun started."""
    return not is_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of torchrun inside the block. Without torchrun, nothing happens."""
    if not is_torchrun() or dist.is_initialized():
        yield
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in process 0 first, then in the others, which find its results on disk."""
    rank, _ = get_rank_and_world_size()
    if rank:
        barrier()
    yield
    if not rank:
        barrier()

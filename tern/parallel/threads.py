"""Number of CPU threads of torch, on which the last bits of its sums depend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Compute with a number of threads in the block, or in the decorated function; then restore the number before.

    torch cuts a sum into one part per thread, so another number of threads gives other last bits.
    """
    previous = torch.get_num_threads()
    if previous == num_threads:  # setting it clears the kernels that oneDNN has prepared
        yield
        return
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)

"""The number of threads of torch in the jobs of a stage."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Compute with one thread of torch in the block, as in every worker process; then restore the number before.

    A process that has not imported torch, because its job needs none, does not import it here.
    """
    if "torch" not in sys.modules:
        yield
        return
    from tern.parallel import torch_threads  # lazy: see above

    with torch_threads(1):
        yield

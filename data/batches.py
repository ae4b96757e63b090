"""Batches of items of equal length, so that what is computed for an item does not depend on the items next to it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence


def group_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Group the positions of items of equal length, shortest first, in the order of the items.

    A sum of floating-point numbers is rounded in an order that depends on the shapes of a batch. A caller that fills up
    each batch to `batch_size` items computes every item of one length in one shape, and so always with the same bits.

    Args:
        lengths: Length of each item.
        batch_size: Maximum number of positions per batch.

    Yields:
        Positions of at most `batch_size` items of one length.
    """
    positions_by_length: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        positions_by_length[int(length)].append(position)
    for length in sorted(positions_by_length):
        positions = positions_by_length[length]
        for start in range(0, len(positions), batch_size):
            yield positions[start : start + batch_size]

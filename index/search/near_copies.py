"""Near copies of one image: the cosine above which two images are copies, and the hits of a search that are none."""

import numpy as np

NEAR_COPY_COSINE = 0.9
"""Smallest cosine of near copies; docs/how-to/duplicates.md has precision and recall by cosine."""
BLOCK = 128  # vectors compared with those that are found at a time


def find_distinct(vectors: np.ndarray, limit: int, min_cosine: float = NEAR_COPY_COSINE) -> list[int]:
    """Find the vectors that are not near copies of an earlier one.

    A vector is compared only with those that are found, so that no chain of copies hides an image that is different.

    Args:
        vectors: (n, d) unit vectors, such as those of the hits of a query, best first.
        limit: Maximum number of vectors to find.
        min_cosine: Smallest cosine of near copies.

    Returns:
        Their positions, ascending. Those of the first m vectors are the same for every n >= m.
    """
    vectors = np.asarray(vectors, np.float32)
    found: list[int] = []
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        is_copy = (block @ vectors[found].T >= min_cosine).any(axis=1)  # none without found ones
        is_near = block @ block.T >= min_cosine
        for i in range(len(block)):
            if len(found) == limit:
                return found
            if not is_copy[i]:
                found.append(start + i)
                is_copy |= is_near[i]
    return found

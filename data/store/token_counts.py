"""Counts of captions of a token store: truncated ones, and those of which the tokenizer knows nothing."""

from collections.abc import Sequence

import numpy as np

from data.store.store import Store


def count_truncated(store: Store, ids: Sequence[str]) -> int:
    """Count the captions of which the store has fewer tokens than their text has."""
    return int((store.read("full_length", ids) > store.lengths(ids)).sum()) if len(ids) else 0


def count_unknown(store: Store, ids: Sequence[str]) -> int:
    """Count the captions without any known token between the first and the last one, such as one of emoji only.

    All of them have equal features, so nothing distinguishes them. It is 0 for a store whose recipe does not name the
    unknown token.
    """
    if not len(ids) or "unknown_id" not in store.recipe:
        return 0
    is_known = store.read("token_ids", ids) != store.recipe["unknown_id"]
    ends = np.cumsum(store.lengths(ids))
    starts = np.concatenate([[0], ends[:-1]])
    is_known[starts] = is_known[ends - 1] = False
    return int((np.add.reduceat(is_known, starts, dtype=np.int64) == 0).sum())

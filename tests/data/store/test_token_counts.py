"""Counts of captions that are truncated or unknown to the tokenizer, against a slow loop over random token ids."""

import random
from pathlib import Path

import numpy as np
import pytest

from data.manifest import Item, open_or_create_store
from data.store import Store, count_truncated, count_unknown, store_update, write_shard

UNKNOWN = 100


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_those_of_a_loop(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    captions = [
        [101, *(rng.choice((UNKNOWN, 7)) for _ in range(rng.randrange(3))), rng.choice((102, UNKNOWN))]
        for _ in range(40)
    ]
    full_lengths = [len(ids) + rng.randrange(2) for ids in captions]
    folder = open_or_create_store(tmp_path, "tokens", {"unknown_id": UNKNOWN})
    items = [Item(f"c{i}", f"{i:064x}") for i in range(40)]
    with store_update(folder, items, 17) as plans:
        for plan in plans:
            numbers = [int(item.id[1:]) for item in plan.items]
            columns = (
                {
                    "features": np.zeros((len(captions[i]), 2), np.float16),
                    "token_ids": np.array(captions[i], np.int32),
                    "full_length": full_lengths[i],
                }
                for i in numbers
            )
            write_shard(folder, plan, columns)
    store, ids = Store(folder), [item.id for item in items]
    unknown = sum(all(token == UNKNOWN for token in row[1:-1]) for row in captions)
    assert 0 < unknown < 40
    assert count_unknown(store, ids) == unknown
    assert count_truncated(store, ids) == sum(f > len(row) for f, row in zip(full_lengths, captions, strict=True))
    assert (count_unknown(store, []), count_truncated(store, [])) == (0, 0)

"""Conftest of `tests`."""

import numpy as np
import pytest

from data.datasets.records import Caption, Dataset, Image
from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards
from tests.helpers.tern_world import THINGS


def build(root, kind, rows, recipe=None):
    folder = open_or_create_store(root, kind, {"made by": "test", "kind": kind} | (recipe or {}))
    plans = plan_shards(folder, [Item(name, f"{len(name):064}") for name in rows], 40)
    commit(folder, [write_shard(folder, plan, [rows[item.id] for item in plan.items]) for plan in plans])
    return Store(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """100 images of 2 to 5 things out of 12; a caption names all its things, in any order, with noise and filler."""
    root, draw = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    looks, words = draw.normal(size=(THINGS, 20)), draw.normal(size=(THINGS + 3, 14))
    images, captions, regions, tokens = [], [], {}, {}
    for k in range(100):
        name, here = f"{k}.jpg", draw.choice(THINGS, draw.integers(2, 6), replace=False)
        images.append(Image(name, root / name, "train" if k < 60 else "val" if k < 80 else "test"))
        corners = np.sort(draw.uniform(0, 64, (len(here), 2, 2)), axis=1).reshape(-1, 4)
        regions[name] = {
            "features": looks[here] + 0.3 * draw.normal(size=(len(here), 20)), "boxes": corners,
            "class_ids": here, "scores": draw.uniform(0.5, 1, len(here)), "size": np.array([64, 64]),
            "attr_ids": here, "attr_scores": np.ones(len(here)),
        }  # fmt: skip
        for c in range(1 + k % 4):
            said = draw.permutation(np.concatenate([here, THINGS + draw.integers(0, 3, 3)]))
            captions.append(Caption(f"{name}#{c}", name, "words"))
            noise = 0.3 * draw.normal(size=(len(said), 14))
            tokens[f"{name}#{c}"] = {"features": words[said] + noise, "token_ids": said, "full_length": len(said)}
    dataset = Dataset("world", root, tuple(images), tuple(captions))
    return build(root, "regions", regions), build(root, "tokens", tokens), dataset

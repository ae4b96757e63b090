"""Fixtures of the tests of `tern`: a small dataset with stores, drawn from a seed."""

import numpy as np
import pytest

from data.datasets.records import Caption, Dataset, Image
from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards
from tern.training.inputs import TrainingInputs
from tests.helpers.tern_world import THINGS


def build_store(root, kind, rows, recipe=None):
    folder = open_or_create_store(root, kind, {"made by": "test", "kind": kind} | (recipe or {}))
    plans = plan_shards(folder, [Item(name, f"{len(name):064}") for name in rows], 40)
    commit(folder, [write_shard(folder, plan, [rows[item.id] for item in plan.items]) for plan in plans])
    return Store(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """100 images of 2 to 5 things out of 12; a caption names all its things, in any order, with noise and fillers."""
    root, draw = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    appearances, words = draw.normal(size=(THINGS, 20)), draw.normal(size=(THINGS + 3, 14))
    images, captions, regions, tokens = [], [], {}, {}
    for k in range(100):
        name, things = f"{k}.jpg", draw.choice(THINGS, draw.integers(2, 6), replace=False)
        images.append(Image(name, root / name, "train" if k < 60 else "val" if k < 80 else "test"))
        corners = np.sort(draw.uniform(0, 64, (len(things), 2, 2)), axis=1).reshape(-1, 4)
        regions[name] = {
            "features": appearances[things] + 0.3 * draw.normal(size=(len(things), 20)), "boxes": corners,
            "class_ids": things, "scores": draw.uniform(0.5, 1, len(things)), "size": np.array([64, 64]),
            "attr_ids": things, "attr_scores": np.ones(len(things)),
        }  # fmt: skip
        for c in range(1 + k % 4):
            token_ids = draw.permutation(np.concatenate([things, THINGS + draw.integers(0, 3, 3)]))
            captions.append(Caption(f"{name}#{c}", name, "words"))
            noise = 0.3 * draw.normal(size=(len(token_ids), 14))
            tokens[f"{name}#{c}"] = {
                "features": words[token_ids] + noise, "token_ids": token_ids, "full_length": len(token_ids),
            }  # fmt: skip
    dataset = Dataset("world", root, tuple(images), tuple(captions))
    return TrainingInputs(build_store(root, "regions", regions), build_store(root, "tokens", tokens), dataset)

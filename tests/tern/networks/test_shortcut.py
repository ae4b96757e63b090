"""The direct road: the frame taken from the training set, and the whole of it against numpy."""

import numpy as np
import torch

from tern.config import ModelConfig, TrainConfig
from tern.model.embed import embed_new_captions, embed_new_images
from tern.networks import shortcut as direct
from tern.networks.build import build_model
from tern.networks.default import Tern
from tern.training.normalization import fit_normalization
from tern.training.trainer import Trainer
from tests.helpers.tern_world import CONFIG


def lone(region_dim, token_dim, **changes):
    """A model whose layers add nothing yet: both last maps start at zero."""
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "feedforward_dim": 24, "embed_dim": 12, "count_similar_regions": False} | changes
    return Tern(ModelConfig(**shape), region_dim, token_dim).eval()


def test_at_the_start_vectors_are_what_numpy_makes_of_pooled_features():
    model, draw = lone(10, 6), np.random.default_rng(0)
    side, words = model.image_shortcut, model.caption_shortcut
    for buffer in (side.middle, words.middle):
        buffer.copy_(torch.from_numpy(draw.normal(size=len(buffer))))
    side.spread.copy_(torch.from_numpy(draw.uniform(0.5, 2, 30)))
    for rows in (1, 7):
        features = draw.normal(size=(rows, 10)).astype(np.float16).astype(np.float32)
        for scores in (draw.uniform(size=rows).astype(np.float32), np.zeros(rows, np.float32)):
            weights = scores if scores.any() else None
            pooled = np.concatenate([features[0], np.average(features, axis=0, weights=weights), features.max(0)])
            goal = (pooled - side.middle.numpy()) / side.spread.numpy() @ side.map.weight.detach().numpy().T
            longer = (draw.normal(size=(9, 10)), np.zeros((9, 4)), (9, 9), np.ones(9))  # a batch mate changes nothing
            found = embed_new_images(model, [(features, np.zeros((rows, 4)), (9, 9), scores), longer])[0]
            np.testing.assert_allclose(found, goal / np.linalg.norm(goal), atol=1e-4)
        told = draw.normal(size=(rows, 6)).astype(np.float16).astype(np.float32)
        unit = told.mean(0) / np.linalg.norm(told.mean(0)) - words.middle.numpy()
        found = embed_new_captions(model, [told, draw.normal(size=(3, 6))])  # a longer batch mate changes nothing
        goal = words.map.weight.detach().numpy() @ unit
        np.testing.assert_allclose(found[0], goal / np.linalg.norm(goal), atol=1e-5)


def test_the_captions_map_keeps_the_text_encoders_angles():
    model = lone(10, 6)
    told = [np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float16).astype(np.float32) for seed in range(5)]
    means = np.array([rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in told])
    vectors = embed_new_captions(model, told)
    np.testing.assert_allclose(vectors @ vectors.T, means @ means.T, atol=1e-5)


def test_the_frame_is_that_of_the_training_split_alone(world, monkeypatch):  # noqa: F811
    monkeypatch.setattr(direct, "CHUNK", 7)  # several parts
    regions, tokens, dataset = world
    run = Trainer(TrainConfig(**CONFIG), regions, tokens, dataset, "cpu")
    learn, rows, told = dataset.select_split("train"), [], []
    for image in learn.images:
        features = regions.read("features", [image.id]).astype(np.float64)
        weighed = np.average(features, axis=0, weights=regions.read("scores", [image.id]))
        rows.append(np.concatenate([features[0], weighed, features.max(0)]))
    for caption in learn.captions:
        mean = tokens.read("features", [caption.id]).astype(np.float64).mean(0)
        told.append(mean / np.linalg.norm(mean))
    for model in (run.model, run.ema_model):
        np.testing.assert_allclose(model.image_shortcut.middle, np.mean(rows, 0), atol=1e-5)
        np.testing.assert_allclose(model.image_shortcut.spread, np.std(rows, 0), rtol=1e-4)
        np.testing.assert_allclose(model.caption_shortcut.middle, np.mean(told, 0), atol=1e-5)


def test_a_number_that_never_moves_in_training_has_no_say(world):  # noqa: F811
    regions, tokens, _ = world
    model = lone(20, 14)
    with torch.no_grad():
        fit_normalization(model, regions, tokens, ["0.jpg"], ["0.jpg#0"])  # of one image nothing moves
    features = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    assert np.isfinite(embed_new_images(model, [(features, np.zeros((3, 4)), (9, 9), np.ones(3))])).all()
    assert not (features.mean() / model.image_shortcut.spread).any()


def test_the_published_networks_have_no_direct_road():
    for preset in ("paper", "kaylode"):
        small = {"width": 16, "heads": 2, "feedforward_dim": 24, "embed_dim": 12}
        assert getattr(build_model(TrainConfig(preset=preset, model=small).model, 10, 6), "direct_images", None) is None

"""The shortcut: its statistics of the training set, and its output against NumPy."""

import numpy as np
import torch

from tern.config import ModelConfig, TrainConfig
from tern.model.embed import embed_new_captions, embed_new_images
from tern.networks.build import build_model
from tern.networks.default import Tern
from tern.training import normalization
from tern.training.normalization import fit_normalization
from tern.training.trainer import Trainer
from tests.helpers.tern_world import CONFIG


def make_untrained(region_dim, token_dim, **changes):
    """A model whose transformer branch is 0, because its last maps start at zero."""
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "feedforward_dim": 24, "embed_dim": 12, "count_similar_regions": False} | changes
    return Tern(ModelConfig(**shape), region_dim, token_dim).eval()


def test_initial_vectors_equal_numpy_on_pooled_features():
    model, draw = make_untrained(10, 6), np.random.default_rng(0)
    images, captions = model.image_shortcut, model.caption_shortcut
    for buffer in (images.mean, captions.mean):
        buffer.copy_(torch.from_numpy(draw.normal(size=len(buffer))))
    images.std.copy_(torch.from_numpy(draw.uniform(0.5, 2, 30)))
    for rows in (1, 7):
        features = draw.normal(size=(rows, 10)).astype(np.float16).astype(np.float32)
        for scores in (draw.uniform(size=rows).astype(np.float32), np.zeros(rows, np.float32)):
            weights = scores if scores.any() else None
            pooled = np.concatenate([features[0], np.average(features, axis=0, weights=weights), features.max(0)])
            expected = (pooled - images.mean.numpy()) / images.std.numpy() @ images.map.weight.detach().numpy().T
            longer = (draw.normal(size=(9, 10)), np.zeros((9, 4)), (9, 9), np.ones(9))  # another image in the batch
            vectors = embed_new_images(model, [(features, np.zeros((rows, 4)), (9, 9), scores), longer]).vectors[0]
            np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected), atol=1e-4)
        tokens = draw.normal(size=(rows, 6)).astype(np.float16).astype(np.float32)
        unit = tokens.mean(0) / np.linalg.norm(tokens.mean(0)) - captions.mean.numpy()
        vectors = embed_new_captions(model, [tokens, draw.normal(size=(3, 6))]).vectors  # another caption in the batch
        expected = captions.map.weight.detach().numpy() @ unit
        np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_initial_caption_map_keeps_the_angles_of_the_text_encoder():
    model = make_untrained(10, 6)
    captions = [
        np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float16).astype(np.float32) for seed in range(5)
    ]
    means = np.array([rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in captions])
    vectors = embed_new_captions(model, captions).vectors
    np.testing.assert_allclose(vectors @ vectors.T, means @ means.T, atol=1e-5)


def test_statistics_are_those_of_the_training_split(world, monkeypatch):
    monkeypatch.setattr(normalization, "CHUNK", 7)  # several chunks
    regions, tokens, dataset = world
    run = Trainer(world, TrainConfig(**CONFIG), "cpu")
    train_split, image_rows, caption_rows = dataset.select_split("train"), [], []
    for image in train_split.images:
        features = regions.read("features", [image.id]).astype(np.float64)
        weighted = np.average(features, axis=0, weights=regions.read("scores", [image.id]))
        image_rows.append(np.concatenate([features[0], weighted, features.max(0)]))
    for caption in train_split.captions:
        mean = tokens.read("features", [caption.id]).astype(np.float64).mean(0)
        caption_rows.append(mean / np.linalg.norm(mean))
    for model in (run.model, run.ema_model):
        np.testing.assert_allclose(model.image_shortcut.mean, np.mean(image_rows, 0), atol=1e-5)
        np.testing.assert_allclose(model.image_shortcut.std, np.std(image_rows, 0), rtol=1e-4)
        np.testing.assert_allclose(model.caption_shortcut.mean, np.mean(caption_rows, 0), atol=1e-5)


def test_feature_that_is_constant_in_training_is_ignored(world):
    regions, tokens, _ = world
    model = make_untrained(20, 14)
    with torch.no_grad():
        fit_normalization(model, regions, tokens, ["0.jpg"], ["0.jpg#0"])  # one image: every feature is constant
    features = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    assert np.isfinite(embed_new_images(model, [(features, np.zeros((3, 4)), (9, 9), np.ones(3))]).vectors).all()
    assert not (features.mean() / model.image_shortcut.std).any()


def test_published_networks_have_no_shortcut():
    for preset in ("paper", "kaylode"):
        small = {"width": 16, "heads": 2, "feedforward_dim": 24, "embed_dim": 12}
        assert (
            getattr(build_model(TrainConfig(preset=preset, model=small).model, 10, 6), "image_shortcut", None) is None
        )

"""Region counts: against a slow loop, independent of the batch and of the regions that a batch leaves out."""

import numpy as np
import torch

from tern.batching.plan import plan_batches
from tern.batching.read import BatchReader
from tern.config import ModelConfig, TrainConfig
from tern.networks.default import Tern
from tern.networks.inputs import ImageBatch
from tern.networks.region_counts import (
    MAX_COUNT,
    SIGMOID_SLOPE,
    SIMILARITY_THRESHOLD,
    RegionCounts,
    count_similar_regions,
)
from tern.training.trainer import Trainer
from tests.helpers.tern_world import CONFIG


def slow(features, scores, feature_mean):
    """Count by the definition, one pair at a time."""
    unit = [(row - feature_mean) / np.linalg.norm(row - feature_mean) for row in features.astype(np.float64)]
    return [
        sum(
            s / (1 + np.exp(-SIGMOID_SLOPE * (one @ other - SIMILARITY_THRESHOLD)))
            for other, s in zip(unit, scores, strict=True)
        )
        for one in unit
    ]


def test_counts_equal_a_slow_loop_and_do_not_depend_on_the_batch():
    draw = np.random.default_rng(0)
    kinds, feature_mean = (
        draw.normal(size=(3, 40)) * 4 + 9,
        np.full(40, 9.0),
    )  # without the mean, all regions are similar
    kind = np.array([0, 0, 0, 0, 1, 2, 2])  # four of a kind, one, two
    features = (kinds[kind] + 0.3 * draw.normal(size=(7, 40))).astype(np.float32)
    scores = draw.uniform(0.8, 1, 7).astype(np.float32)
    rows = torch.from_numpy(np.stack([features, np.zeros_like(features)]))  # another image with two rows, then padding
    mask = torch.tensor([[True] * 7, [True] * 2 + [False] * 5])
    all_scores = torch.from_numpy(np.stack([scores, np.zeros(7, np.float32)]))
    counts = count_similar_regions(rows, mask, all_scores, torch.from_numpy(feature_mean).float())
    np.testing.assert_allclose(counts[0], slow(features, scores, feature_mean), atol=1e-3)
    np.testing.assert_allclose(counts[0].round(), [4, 4, 4, 4, 1, 2, 2])
    np.testing.assert_allclose(counts[1, :2], 2, atol=0.1)  # without scores, each region counts as one
    unscored = count_similar_regions(rows[:1], mask[:1], None, torch.from_numpy(feature_mean).float())
    np.testing.assert_allclose(unscored[0].round(), [4, 4, 4, 4, 1, 2, 2])


def test_four_similar_regions_are_one_four_not_four_fours():
    counts, mask = torch.tensor([[4.0, 4, 4, 4, 2, 2, 9]]), torch.tensor([[True] * 7])
    layer = RegionCounts(5, 8, 6)
    region_output, image_output = layer(counts, mask, None)
    expected = np.zeros(MAX_COUNT)
    expected[[3, 1]] = 1
    expected[MAX_COUNT - 1] = 1 / 9  # nine is treated as the maximum
    np.testing.assert_allclose(
        image_output[0].detach(),
        layer.image.weight.detach().numpy() @ expected + layer.image.bias.detach().numpy(),
        atol=1e-5,
    )
    assert torch.equal(region_output[0, 0], region_output[0, 3])
    assert not torch.allclose(region_output[0, 0], region_output[0, 4])


def test_regions_left_out_of_a_batch_are_counted(world):
    regions, tokens, dataset = world
    run = Trainer(world, TrainConfig(**CONFIG), "cpu")
    feature_mean = run.model.counts.feature_mean
    read = lambda field, name: regions.read(field, [name]).astype(np.float64)  # noqa: E731
    names = [image.id for image in dataset.select_split("train").images]
    means = [np.average(read("features", name), axis=0, weights=read("scores", name)) for name in names]
    np.testing.assert_allclose(feature_mean, np.mean(means, 0), atol=1e-5)
    plan = plan_batches(run.captions_by_image_id, 16, 1, 0, 0)[0]
    reader = BatchReader(regions, tokens, region_drop=0.5, feature_mean=feature_mean)
    batch = reader.read(plan, np.random.default_rng(0))
    keep = np.random.default_rng(0).random(int(regions.lengths(plan.images).sum())) >= 0.5
    start = 0
    for name, counts, row_mask in zip(plan.images, batch.images.counts, batch.images.mask, strict=True):
        features = regions.read("features", [name]).astype(np.float32)
        is_kept = keep[start : start + len(features)].copy()
        is_kept[0] = True  # the first row of an item always stays
        start += len(features)
        expected = np.array(slow(features, regions.read("scores", [name]), feature_mean.numpy()))[is_kept]
        np.testing.assert_allclose(counts[: row_mask.sum()], expected, atol=2e-3)
    assert (
        BatchReader(regions, tokens, feature_mean=feature_mean).read(plan, np.random.default_rng(0)).images.counts
        is None
    )


def test_counts_of_the_batch_are_used():
    torch.manual_seed(0)
    model = Tern(ModelConfig(width=16, heads=2, feedforward_dim=24, embed_dim=12), 10, 6).eval()
    features, mask = torch.randn(2, 5, 10), torch.ones(2, 5).bool()
    inputs = features, torch.rand(2, 5, 4), torch.ones(2, 2), mask, torch.rand(2, 5)
    counted = model.embed_images(ImageBatch(*inputs))
    counts = count_similar_regions(features, mask, inputs[-1], model.counts.feature_mean)
    torch.testing.assert_close(counted, model.embed_images(ImageBatch(*inputs, counts)))
    assert not torch.allclose(counted, model.embed_images(ImageBatch(*inputs, torch.full((2, 5), 4.0))))

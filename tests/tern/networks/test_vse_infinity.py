"""The network `vse-infinity` against a forward pass item by item, written from the paper and the authors' code."""

import math

import pytest
import torch
from torch import nn

from tern.config import TrainConfig
from tern.networks.build import build_model
from tern.networks.inputs import ImageBatch

LENGTHS = ([5, 1, 3], [2, 7, 4])  # regions and tokens of each item


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = build_model(TrainConfig(preset="vse-infinity", model={"width": 8, "embed_dim": 12}).model, 10, 6)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        built.mlp_norm.running_mean.normal_()
        built.mlp_norm.running_var.uniform_(0.5, 2)
    return built.eval()


def make_batch():
    draw = torch.Generator().manual_seed(1)
    features, words = torch.randn(3, 5, 10, generator=draw), torch.randn(3, 7, 6, generator=draw)
    masks = [torch.arange(n) < torch.tensor(lengths)[:, None] for n, lengths in zip((5, 7), LENGTHS, strict=True)]
    return ImageBatch(features, torch.rand(3, 5, 4), torch.ones(3, 2), masks[0]), words, masks[1]


def pool(rows, gpo):
    """Section 3.2 of the paper: position codes, a BiGRU whose directions are averaged, a softmax, sorted values."""
    n = len(rows)
    codes = torch.zeros(1, n, 32)
    for position in range(n):
        for k in range(0, 32, 2):
            angle = position / math.exp(k * math.log(10000.0) / 32)
            codes[0, position, k], codes[0, position, k + 1] = math.sin(angle), math.cos(angle)
    states = gpo.gru(codes)[0][0]
    scores = (states[:, :32] + states[:, 32:]) / 2 @ gpo.score.weight[0]
    weights = (scores / 0.1).exp() / (scores / 0.1).exp().sum()
    pooled = []
    for feature in rows.T:
        ordered = sorted(feature.tolist(), reverse=True)
        pooled.append(sum(weight * value for weight, value in zip(weights.tolist(), ordered, strict=True)))
    return torch.tensor(pooled)


def embed_slowly(model, rows, mean, var):
    """The towers of one image: fc(x) + mlp(x); the MLP is linear, batch norm, ReLU, linear."""
    norm = model.mlp_norm
    hidden = (rows @ model.mlp_in.weight.T + model.mlp_in.bias - mean) / torch.sqrt(var + 1e-5)
    hidden = (hidden * norm.weight + norm.bias).clamp(min=0)
    x = hidden @ model.mlp_out.weight.T + model.mlp_out.bias + rows @ model.region_proj.weight.T
    return pool(x + model.region_proj.bias, model.image_pool)


@torch.no_grad()
def test_vectors_of_a_padded_batch_equal_a_slow_forward_item_by_item(model):
    images, words, mask = make_batch()
    image_vectors, caption_vectors = model.embed_images(images), model.embed_captions(words, mask)
    for i, (regions, length) in enumerate(zip(*LENGTHS, strict=True)):
        x = embed_slowly(model, images.features[i, :regions], model.mlp_norm.running_mean, model.mlp_norm.running_var)
        y = pool(words[i, :length] @ model.token_proj.weight.T + model.token_proj.bias, model.text_pool)
        torch.testing.assert_close(image_vectors[i], x / x.norm(), atol=1e-5, rtol=0)
        torch.testing.assert_close(caption_vectors[i], y / y.norm(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_batch_norm_in_training_uses_the_real_regions_only(model):
    images, _, _ = make_batch()
    before = model.mlp_norm.running_mean.clone(), model.mlp_norm.running_var.clone()
    vectors = model.train().embed_images(images)
    real = torch.cat([images.features[i, :regions] for i, regions in enumerate(LENGTHS[0])])
    hidden = real @ model.mlp_in.weight.T + model.mlp_in.bias
    mean, var = hidden.mean(0), hidden.var(0, unbiased=False)
    for i, regions in enumerate(LENGTHS[0]):
        x = embed_slowly(model, images.features[i, :regions], mean, var)
        torch.testing.assert_close(vectors[i], x / x.norm(), atol=1e-5, rtol=0)
    for old, new, actual in zip(
        before, (mean, hidden.var(0)), (model.mlp_norm.running_mean, model.mlp_norm.running_var), strict=True
    ):
        torch.testing.assert_close(actual, 0.9 * old + 0.1 * new)


def test_network_has_the_layers_of_the_authors():
    """The parameters of lib/encoders.py with 2,048 features per region, without BERT and a batch norm never applied."""
    with torch.device("meta"):
        model = build_model(TrainConfig(preset="vse-infinity").model, 2048, 768)
        gpo = [nn.GRU(32, 32, bidirectional=True), nn.Linear(32, 1, bias=False)]
        layers = [nn.Linear(2048, 1024), nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.Linear(512, 1024)]
        layers += [nn.Linear(768, 1024), *gpo, *gpo]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for part in layers for p in part.parameters())

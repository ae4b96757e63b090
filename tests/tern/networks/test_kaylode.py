"""The network `kaylode`: against torch's layers, item by item, and its number of parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tern.config import TrainConfig
from tern.losses.build import build_loss
from tern.networks.build import build_model
from tern.networks.inputs import ImageBatch

SMALL = {"width": 16, "visual_layers": 2, "feedforward_dim": 20, "embed_dim": 12}
LAYER_NAMES = {
    "qkv.": "self_attn.in_proj_",
    "out.": "self_attn.out_proj.",
    "feed.0.": "linear1.",
    "feed.3.": "linear2.",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = build_model(TrainConfig(preset="kaylode", model=SMALL).model, 10, 6)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built.eval()


def convert_to_torch_layer(layer):
    """Convert a layer to one of torch."""
    torch_layer = nn.TransformerEncoderLayer(16, 4, 20, 0.1, "gelu", batch_first=True, norm_first=True).eval()
    state = {}
    for name, value in layer.state_dict().items():
        for prefix, torch_prefix in LAYER_NAMES.items():
            name = name.replace(prefix, torch_prefix) if name.startswith(prefix) else name
        state[name] = value
    torch_layer.load_state_dict(state)
    return torch_layer


def test_vectors_of_a_padded_batch_equal_torch_layers_item_by_item(model):
    torch.manual_seed(1)
    features, boxes, sizes = torch.randn(3, 5, 10), torch.rand(3, 5, 4) * 90, torch.tensor([[100.0, 80.0]]).repeat(3, 1)
    words, regions, lengths = torch.randn(3, 7, 6), [5, 1, 3], [2, 7, 4]
    mask = torch.arange(5) < torch.tensor(regions)[:, None]
    images = model.embed_images(ImageBatch(features, boxes, sizes, mask))
    captions = model.embed_captions(words, torch.arange(7) < torch.tensor(lengths)[:, None])
    for i, (r, n) in enumerate(zip(regions, lengths, strict=True)):
        b = boxes[i, :r] / torch.tensor([100.0, 80.0, 100.0, 80.0])
        b = torch.cat([b, ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))[:, None]], 1)
        rows = model.region_proj(features[i, :r]) + model.box_proj(b)
        x = torch.cat([model.image_cls.sum(0, keepdim=True), rows])[None]
        for layer in model.visual:
            x = convert_to_torch_layer(layer)(x)
        x = model.image_out(F.relu(model.image_mid(model.norm(x))))[0].mean(0)
        y = model.caption_out(F.relu(model.caption_mid(words[i, :n]))).mean(0)
        torch.testing.assert_close(images[i], x / x.norm(), atol=1e-5, rtol=0)
        torch.testing.assert_close(captions[i], y / y.norm(), atol=1e-5, rtol=0)


def test_kaylode_network_has_26_4_million_parameters():
    with torch.device("meta"):
        model = build_model(TrainConfig(preset="kaylode").model, 2048, 768)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 26.4


def test_kaylode_loss_compares_only_across_modalities():
    """The mean over violating pairs, positive and negative, in a double loop."""
    torch.manual_seed(0)
    images, captions = F.normalize(torch.randn(6, 8)), F.normalize(torch.randn(9, 8))
    a, b = torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])
    positive, negative = [], []
    for i in range(6):
        for j in range(9):
            score = float(images[i] @ captions[j])
            (positive if a[i] == b[j] else negative).append(max(0.0, 1 - score if a[i] == b[j] else score))
    one_direction = sum(sum(values) / max(1, sum(value > 0 for value in values)) for values in (positive, negative))
    value = build_loss(TrainConfig(preset="kaylode").loss)(images, captions, a, b)
    assert float(value) == pytest.approx(2 * one_direction, abs=1e-4)  # both directions have the same pairs


@pytest.mark.parametrize("preset", ["paper", "kaylode"])
def test_preset_learns_planted_pairs(preset):
    """Images and captions with a common hidden vector retrieve each other, in bf16, with the loss of the preset."""
    torch.manual_seed(0)
    shape = {"width": 32, "visual_layers": 1, "feedforward_dim": 32, "embed_dim": 32}
    config = TrainConfig(preset=preset, lr=1e-3, model=shape)
    model, loss_of = build_model(config.model, 10, 6).train(), build_loss(config.loss)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, config.betas, config.eps)
    hidden, labels = torch.randn(24, 6), torch.arange(24)
    features, words = (hidden @ torch.randn(6, 10))[:, None].repeat(1, 3, 1), hidden[:, None].repeat(1, 4, 1)
    boxes, sizes, mask = torch.rand(24, 3, 4), torch.ones(24, 2), torch.ones(24, 4, dtype=torch.bool)
    for _ in range(150):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            images = model.embed_images(ImageBatch(features, boxes, sizes, mask[:, :3]))
            captions = model.embed_captions(words, mask)
        optimizer.zero_grad()
        loss_of(images, captions, labels, labels).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        images = model.embed_images(ImageBatch(features, boxes, sizes, mask[:, :3]))
        scores = images @ model.embed_captions(words, mask).T
    assert (scores.argmax(1) == labels).float().mean() > 0.8

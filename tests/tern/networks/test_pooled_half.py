"""The second half of the default network's vectors, and the loss of both halves."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from tern.config import LossConfig, ModelConfig, TrainConfig
from tern.losses.build import build_all_negatives_loss, build_loss
from tern.networks.build import build_model
from tern.networks.inputs import ImageBatch
from tests.helpers.tern_world import batch
from tests.reference.losses import slow_infonce

SMALL = {"width": 16, "heads": 2, "feedforward_dim": 16}


def test_cosines_are_the_means_of_those_of_the_network_and_of_vse_infinity():
    torch.manual_seed(0)
    both = build_model(ModelConfig(**SMALL, embed_dim=24, pooled_half=True, alignment_dim=8), 10, 6).eval()
    alone = build_model(ModelConfig(**SMALL, embed_dim=12, alignment_dim=8), 10, 6).eval()
    shape = {"width": 12, "embed_dim": 12}
    second = build_model(TrainConfig(preset="vse-infinity", model=shape).model, 10, 6).eval()
    for parameter in both.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    both.pooled.mlp_norm.running_mean.normal_()
    state = both.state_dict()
    alone.load_state_dict({name: value for name, value in state.items() if not name.startswith("pooled.")})
    second.load_state_dict(
        {name.removeprefix("pooled."): value for name, value in state.items() if name.startswith("pooled.")}
    )
    features, words = torch.randn(5, 7, 10), torch.randn(4, 6, 6)
    masks = [torch.arange(n) < torch.randint(1, n, (b,))[:, None] for b, n in ((5, 7), (4, 6))]
    images = ImageBatch(features, torch.rand(5, 7, 4), torch.ones(5, 2), masks[0], torch.rand(5, 7))
    with torch.no_grad():
        expected = alone.embed_images(images) @ alone.embed_captions(words, masks[1]).T
        normalized = replace(images, features=F.layer_norm(features, (10,)))
        expected += second.embed_images(normalized) @ second.embed_captions(F.layer_norm(words, (6,)), masks[1]).T
        torch.testing.assert_close(both.embed_images(images) @ both.embed_captions(words, masks[1]).T, expected / 2)
        torch.testing.assert_close(both.embed_images(images).norm(dim=1), torch.ones(5))
        rows = [network.encode_images(images).rows for network in (both, alone)]
        torch.testing.assert_close(rows[0].vectors, rows[1].vectors)


def hinge_slowly(anchors, labels, others, other_labels, margin, choose):
    """Mean over positive pairs; `choose` makes one number of the gaps of a pair to its negatives."""
    values = []
    for anchor, label in zip(anchors, labels, strict=True):
        cosines = [(float(anchor @ other), bool(label == y)) for other, y in zip(others, other_labels, strict=True)]
        negatives = [cosine for cosine, is_positive in cosines if not is_positive]
        for positive in (cosine for cosine, is_positive in cosines if is_positive):
            values.append(choose([max(0.0, margin - positive + negative) for negative in negatives]))
    return sum(values) / len(values)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_loss_is_that_of_the_first_halves_and_a_hinge_of_the_second_ones(negatives):
    first, second = batch(seed=3), batch(seed=4)
    y, z = first[2:]
    images, captions = (torch.cat([first[k], second[k]], dim=1) * 0.5**0.5 for k in (0, 1))
    config = LossConfig(temperature=0.2, margin=0.3)
    loss = build_loss(config, pooled_half=True)
    if negatives == "all":
        loss = build_all_negatives_loss(config, loss)
    expected = slow_infonce(*first, 0.2, "mean")
    for anchors, labels, others, other_labels in ((second[0], y, second[1], z), (second[1], z, second[0], y)):
        choose = max if negatives == "hardest" else sum
        value = hinge_slowly(anchors.detach(), labels, others.detach(), other_labels, 0.3, choose)
        expected += value / (len(others) if negatives == "all" else 1)
    assert loss(images, captions, y, z).item() == pytest.approx(expected, rel=1e-5)


def test_first_epochs_train_the_temperature_of_the_others():
    config = LossConfig()
    loss = build_loss(config, pooled_half=True)
    first_epochs = build_all_negatives_loss(config, loss)
    assert [id(parameter) for parameter in first_epochs.parameters()] == [id(p) for p in loss.parameters()]
    assert build_all_negatives_loss(config, build_loss(config)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 15}, "even embed_dim, not 15"),
        ({"architecture": "vse-infinity"}, "requires"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(settings, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**settings, pooled_half=True)

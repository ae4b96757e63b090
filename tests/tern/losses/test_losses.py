"""Losses against double loops and against PyTorch Metric Learning; unsupported ones are rejected by name."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, reducers

from tern.config import LossConfig
from tern.losses.build import build_loss
from tern.losses.metric_learning import UNSUPPORTED_LOSSES
from tests.helpers.tern_world import FITTING, batch
from tests.reference.losses import SLOW, slow_hinge, slow_infonce


@pytest.mark.parametrize("negatives", ["hardest", "semihard", "all"])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("reduction", ["mean", "sum", "nonzero"])
def test_hinge_equals_a_double_loop(negatives, margin, reduction):
    data = batch(seed=int(10 * margin))
    loss = build_loss(LossConfig(name="hinge", reduction=reduction, negatives=negatives, margin=margin))
    assert float(loss(*data).detach()) == pytest.approx(slow_hinge(*data, margin, negatives, reduction), abs=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "nonzero"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_infonce_equals_a_double_loop(temperature, reduction):
    images, captions, y, z = batch(seed=6)
    y[2] = 1000  # an image without captions in the batch, and captions without their image
    value = build_loss(LossConfig(name="infonce", temperature=temperature, reduction=reduction))(images, captions, y, z)
    assert value.item() == pytest.approx(slow_infonce(images, captions, y, z, temperature, reduction), rel=1e-5)


def test_semihard_hinge_equals_the_library_with_one_positive_per_anchor():
    images, captions, y, z = batch(captions=(1, 1, 1, 1, 1), seed=8)
    distance = distances.CosineSimilarity()
    hinge = losses.TripletMarginLoss(margin=0.5, distance=distance, reducer=reducers.SumReducer())
    miner = miners.BatchEasyHardMiner(pos_strategy="hard", neg_strategy="semihard", distance=distance)
    expected = hinge(images, y, miner(images, y, captions, z), captions, z)
    expected = expected + hinge(captions, z, miner(captions, z, images, y), images, y)
    config = LossConfig(name="hinge", reduction="sum", negatives="semihard", margin=0.5)
    torch.testing.assert_close(build_loss(config)(images, captions, y, z), expected)


@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_equals_the_library(hardest):
    images, captions, y, z = batch(seed=3)
    distance = distances.CosineSimilarity()
    hinge = losses.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducers.SumReducer())
    miner = miners.BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard", distance=distance)
    pairs = [miner(images, y, captions, z), miner(captions, z, images, y)] if hardest else [None, None]
    expected = hinge(images, y, pairs[0], captions, z) + hinge(captions, z, pairs[1], images, y)
    config = LossConfig(name="hinge", reduction="sum", negatives="hardest" if hardest else "all")
    torch.testing.assert_close(build_loss(config)(images, captions, y, z), expected)


def test_hinge_of_the_library_equals_hinge():
    config = LossConfig(
        name="TripletMarginLoss", params={"margin": 0.2}, reduction="sum", distance="cosine",
        miner="BatchEasyHardMiner", miner_params={"pos_strategy": "all", "neg_strategy": "hard"},
    )  # fmt: skip
    data = batch(seed=5)
    torch.testing.assert_close(build_loss(config)(*data), build_loss(LossConfig(name="hinge", reduction="sum"))(*data))


def test_infonce_equals_cross_entropy_with_an_even_target_over_positives():
    images, captions, y, z = batch(seed=1)
    value = build_loss(LossConfig(name="infonce", temperature=0.05))(images, captions, y, z)
    scores, positive = images @ captions.T / 0.05, (y[:, None] == z).float()
    i2t_loss = F.cross_entropy(scores, positive / positive.sum(1, keepdim=True))
    torch.testing.assert_close(value, i2t_loss + F.cross_entropy(scores.T, positive.T))


def test_infonce_equals_supcon_of_the_library():
    data = batch(seed=2)
    infonce = build_loss(LossConfig(name="infonce", temperature=0.1))(*data)
    torch.testing.assert_close(
        infonce, build_loss(LossConfig(name="SupConLoss", params={"temperature": 0.1}))(*data), rtol=1e-4, atol=1e-5
    )


def test_contrastive_of_the_library_equals_a_double_loop():
    images, captions, y, z = data = batch(seed=4)
    value = build_loss(LossConfig(name="ContrastiveLoss", reduction="sum"))(*data)
    far = torch.cdist(images, captions).detach()
    pairs = itertools.product(range(len(y)), range(len(z)))
    one_direction = sum(far[i, j] if y[i] == z[j] else max(0.0, 1 - far[i, j]) for i, j in pairs)
    assert value.item() == pytest.approx(2 * one_direction.item(), abs=1e-4)


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("name", FITTING)
def test_every_supported_loss_equals_a_double_loop(name, seed):
    data = images, captions, y, z = batch(captions=(1, 2, 3, 1), seed=seed)
    # Some positives are near, so that no loss consists of margins only.
    near = F.normalize(captions.detach() + images.detach()[(z[:, None] == y).int().argmax(1)] * 0.7, dim=1)
    data = images, near, y, z
    rows = [part.detach().double().numpy() for part in (images, near)]
    expected = SLOW[name](rows[0], y.tolist(), rows[1], z.tolist()) + SLOW[name](
        rows[1], z.tolist(), rows[0], y.tolist()
    )
    assert build_loss(LossConfig(name=name))(*data).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_every_loss_of_the_library_is_listed_as_supported_or_not():
    names = {name for name in dir(losses) if isinstance(getattr(losses, name), type)}
    assert names == set(FITTING) | set(UNSUPPORTED_LOSSES)
    assert set(SLOW) == set(FITTING)
    assert set(losses.CrossBatchMemory.supported_losses()) == set(FITTING)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_LOSSES))
def test_unsupported_loss_is_rejected_with_the_reason(name):
    with pytest.raises(ValueError, match=f"{name}.*does not fit") as error:
        build_loss(LossConfig(name=name))
    assert UNSUPPORTED_LOSSES[name] in str(error.value)


@pytest.mark.parametrize("name", ["hinge", "infonce", "SupConLoss"])
def test_half_precision_and_autocast_are_computed_in_float32(name):
    images, captions, y, z = batch(seed=7)
    loss, half = build_loss(LossConfig(name=name)), [rows.bfloat16() for rows in (images, captions)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*half, y, z)
    torch.testing.assert_close(value, loss(*(rows.float() for rows in half), y, z), rtol=0, atol=0)
    assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.ones(5)}, r"images \(5,\)"),
        ({1: torch.ones(9, 15)}, r"captions \(9, 15\)"),
        ({2: torch.arange(4)}, r"labels \(4,\)"),
        ({3: torch.arange(9)[None]}, r"\(1, 9\)"),
        ({3: torch.arange(9.0)}, "floating"),
    ],
)
@pytest.mark.parametrize(
    "config", [{"name": "infonce"}, {"name": "SupConLoss"}, {"memory_size": 5}, {"vicreg_weight": 1}]
)
def test_shapes_that_do_not_fit_are_rejected(config, change, message):
    data = [change.get(index, part) for index, part in enumerate(batch())]
    with pytest.raises(ValueError, match=message):
        build_loss(LossConfig(**config))(*data)


@pytest.mark.parametrize("name", ["hinge", "infonce", *FITTING])
def test_every_supported_loss_is_finite_and_symmetric_with_gradients(name):
    images, captions, y, z = batch(seed=6)
    loss = build_loss(LossConfig(name=name))
    value = loss(images, captions, y, z)
    value.backward()
    assert value.ndim == 0
    assert value.isfinite()
    assert all(rows.grad.isfinite().all() and rows.grad.abs().sum() > 0 for rows in (images, captions))
    torch.testing.assert_close(loss(images, captions, y, z), loss(captions, images, z, y))


@pytest.mark.parametrize("name", ["hinge", "infonce", "SupConLoss", "MultiSimilarityLoss"])
def test_one_tensor_object_as_both_labels_keeps_the_positives(name):
    # With one tensor object as both labels, the library assumes one set of rows and drops the diagonal.
    images, captions, y, _ = batch(captions=(1, 1, 1, 1, 1))
    loss = build_loss(LossConfig(name=name))
    value = loss(images, captions, y, y)
    torch.testing.assert_close(value, loss(images, captions, y, y.clone()))
    assert value > 0


def test_two_captions_of_an_image_are_not_negatives():
    """A perfect embedding has a hinge loss of 0; false negatives would add a margin per pair."""
    images = torch.eye(4)
    captions, owners = images.repeat_interleave(2, 0), torch.arange(4).repeat_interleave(2)
    assert build_loss(LossConfig(name="hinge"))(images, captions, torch.arange(4), owners) == 0


@pytest.mark.parametrize("name", ["hinge", "infonce"])
def test_batch_without_negatives_has_a_finite_gradient(name):
    images, captions, y, z = batch(captions=(3,))
    build_loss(LossConfig(name=name))(images, captions, y, z).backward()
    assert images.grad.isfinite().all()


def test_temperature_is_learned_and_stays_within_its_bounds():
    loss = build_loss(LossConfig(name="infonce"))
    data = batch()
    loss(*data).backward()
    assert loss.log_scale.grad.abs() > 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    assert loss(*data) <= 2 * 2 * 100 + 10  # cosines times at most 100, in both directions
    fixed = build_loss(LossConfig(name="infonce", learn_temperature=False))
    assert not any(parameter.requires_grad for parameter in fixed.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "NoSuchLoss"}, "NoSuchLoss"),
        ({"name": "ArcFaceLoss"}, "num_classes"),
        ({"name": "ProxyAnchorLoss", "params": {"num_classes": 9, "embedding_size": 8}}, "does not fit"),
        ({"name": "VICRegLoss"}, "does not support"),
        ({"name": "FastAPLoss"}, "ref_emb"),
        ({"name": "SmoothAPLoss"}, "ref_emb"),
        ({"name": "NPairsLoss"}, "ref_emb"),
        ({"name": "SelfSupervisedLoss"}, "loss"),
        ({"name": "CrossBatchMemory"}, "embedding_size"),
        ({"name": "ThresholdConsistentMarginLoss"}, "does not fit"),
        ({"name": "DynamicSoftMarginLoss"}, "state"),
        ({"name": "SupConLoss", "params": {"heat": 1}}, "heat"),
        ({"name": "SupConLoss", "miner": "NoSuchMiner"}, "NoSuchMiner"),
        ({"name": "SupConLoss", "miner": "EmbeddingsAlreadyPackagedAsTriplets"}, "rows 3k"),
        ({"name": "SupConLoss", "miner": "AngularMiner", "distance": "cosine"}, "LpDistance"),
        ({"name": "SupConLoss", "params": {"reducer": "sum"}}, "set reduction"),
        ({"name": "TripletMarginLoss", "params": {"swap": True}}, "swap"),
        ({"name": "MarginLoss", "params": {"num_classes": 10}}, "num_classes"),
        ({"name": "CircleLoss", "distance": "lp"}, "CosineSimilarity"),
    ],
)
def test_loss_settings_that_do_not_fit_are_rejected_with_the_reason(config, message):
    with pytest.raises(ValueError, match=message):
        build_loss(LossConfig(**config))

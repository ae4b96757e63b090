"""Losses against double loops and against the library; what does not fit is refused by name."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, reducers

from tern.losses import LossConfig, build_loss

FITTING = [
    "AngularLoss", "CircleLoss", "ContrastiveLoss", "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss", "SupConLoss", "TripletMarginLoss", "TupletMarginLoss",
]  # fmt: skip


def batch(captions=(1, 2, 3, 1, 2), seed=0, dim=16):
    """Images with different numbers of captions, captions shuffled: the diagonal means nothing."""
    draw = torch.Generator().manual_seed(seed)
    image_ids = torch.tensor([40, 7, 99, 3, 12])[: len(captions)]
    owners = image_ids.repeat_interleave(torch.tensor(captions))
    owners = owners[torch.randperm(len(owners), generator=draw)]
    rows = [F.normalize(torch.randn(k, dim, generator=draw), dim=1) for k in (len(image_ids), len(owners))]
    return (*(row.requires_grad_() for row in rows), image_ids, owners)


def slow_hinge(images, captions, image_ids, caption_ids, margin, hardest):
    total = 0.0
    for anchors, labels, others, other_labels in (
        (images, image_ids, captions, caption_ids),
        (captions, caption_ids, images, image_ids),
    ):
        for (a, la), (p, lp) in itertools.product(enumerate(labels), enumerate(other_labels)):
            if la != lp:
                continue
            gaps = [
                max(0.0, margin + (anchors[a] @ others[n] - anchors[a] @ others[p]).item())
                for n, ln in enumerate(other_labels)
                if ln != la
            ]
            total += max(gaps) if hardest else sum(gaps)
    return total


@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_equals_a_double_loop(hardest):
    data = batch()
    loss = build_loss(LossConfig(name="hinge", reduction="sum", negatives="hardest" if hardest else "all"))
    assert float(loss(*data).detach()) == pytest.approx(slow_hinge(*data, 0.2, hardest), abs=1e-4)


@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_equals_the_library(hardest):
    images, captions, y, z = batch(seed=3)
    distance = distances.CosineSimilarity()
    hinge = losses.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducers.SumReducer())
    mine = miners.BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard", distance=distance)
    pairs = [mine(images, y, captions, z), mine(captions, z, images, y)] if hardest else [None, None]
    expected = hinge(images, y, pairs[0], captions, z) + hinge(captions, z, pairs[1], images, y)
    config = LossConfig(name="hinge", reduction="sum", negatives="hardest" if hardest else "all")
    torch.testing.assert_close(build_loss(config)(images, captions, y, z), expected)


def test_hinge_through_the_adapter_is_the_same_loss():
    config = LossConfig(
        name="TripletMarginLoss", params={"margin": 0.2}, reduction="sum", distance="cosine",
        miner="BatchEasyHardMiner", miner_params={"pos_strategy": "all", "neg_strategy": "hard"},
    )  # fmt: skip
    data = batch(seed=5)
    torch.testing.assert_close(build_loss(config)(*data), build_loss(LossConfig(name="hinge", reduction="sum"))(*data))


def test_infonce_equals_cross_entropy_with_the_target_spread_over_the_positives():
    images, captions, y, z = batch(seed=1)
    found = build_loss(LossConfig(name="infonce", temperature=0.05))(images, captions, y, z)
    scores, positive = images @ captions.T / 0.05, (y[:, None] == z).float()
    one = F.cross_entropy(scores, positive / positive.sum(1, keepdim=True))
    torch.testing.assert_close(found, one + F.cross_entropy(scores.T, positive.T))


def test_infonce_equals_supcon_of_the_library():
    data = batch(seed=2)
    plain = build_loss(LossConfig(name="infonce", temperature=0.1))(*data)
    torch.testing.assert_close(
        plain, build_loss(LossConfig(name="SupConLoss", params={"temperature": 0.1}))(*data), rtol=1e-4, atol=1e-5
    )


def test_contrastive_of_the_library_equals_a_double_loop():
    images, captions, y, z = data = batch(seed=4)
    found = build_loss(LossConfig(name="ContrastiveLoss", reduction="sum"))(*data)
    far = torch.cdist(images, captions).detach()
    pairs = itertools.product(range(len(y)), range(len(z)))
    one_way = sum(far[i, j] if y[i] == z[j] else max(0.0, 1 - far[i, j]) for i, j in pairs)
    assert found.item() == pytest.approx(2 * one_way.item(), abs=1e-4)


@pytest.mark.parametrize("name", ["hinge", "infonce", *FITTING])
def test_every_fitting_loss_is_finite_learns_and_goes_both_ways(name):
    images, captions, y, z = batch(seed=6)
    loss = build_loss(LossConfig(name=name))
    value = loss(images, captions, y, z)
    value.backward()
    assert value.ndim == 0
    assert value.isfinite()
    assert all(rows.grad.isfinite().all() and rows.grad.abs().sum() > 0 for rows in (images, captions))
    torch.testing.assert_close(loss(images, captions, y, z), loss(captions, images, z, y))


@pytest.mark.parametrize("name", ["hinge", "infonce", "SupConLoss", "MultiSimilarityLoss"])
def test_equal_labels_in_one_tensor_object_do_not_drop_the_true_pairs(name):
    # the library reads one object in both places as "the same rows" and clears the diagonal
    images, captions, y, _ = batch(captions=(1, 1, 1, 1, 1))
    loss = build_loss(LossConfig(name=name))
    value = loss(images, captions, y, y)
    torch.testing.assert_close(value, loss(images, captions, y, y.clone()))
    assert value > 0


def test_two_captions_of_an_image_do_not_repel_it():
    """Everything in its right place gives no hinge; false negatives would leave a margin for each pair."""
    images = torch.eye(4)
    captions, owners = images.repeat_interleave(2, 0), torch.arange(4).repeat_interleave(2)
    assert build_loss(LossConfig(name="hinge"))(images, captions, torch.arange(4), owners) == 0


@pytest.mark.parametrize("name", ["hinge", "infonce"])
def test_a_batch_without_negatives_gives_a_finite_gradient(name):
    images, captions, y, z = batch(captions=(3,))
    build_loss(LossConfig(name=name))(images, captions, y, z).backward()
    assert images.grad.isfinite().all()


def test_the_temperature_is_learnt_and_stays_within_its_bounds():
    loss = build_loss(LossConfig(name="infonce"))
    data = batch()
    loss(*data).backward()
    assert loss.log_scale.grad.abs() > 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    assert loss(*data) <= 2 * 2 * 100 + 10  # cosines times 100 at most, both ways
    fixed = build_loss(LossConfig(name="infonce", learn_temperature=False))
    assert not any(parameter.requires_grad for parameter in fixed.parameters())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "NoSuchLoss"}, "NoSuchLoss"),
        ({"name": "ArcFaceLoss"}, "num_classes"),
        ({"name": "ProxyAnchorLoss", "params": {"num_classes": 9, "embedding_size": 8}}, "does not fit"),
        ({"name": "VICRegLoss"}, "not supported"),
        ({"name": "FastAPLoss"}, "ref_emb"),
        ({"name": "SmoothAPLoss"}, "ref_emb"),
        ({"name": "NPairsLoss"}, "ref_emb"),
        ({"name": "SelfSupervisedLoss"}, "loss"),
        ({"name": "CrossBatchMemory"}, "embedding_size"),
        ({"name": "ThresholdConsistentMarginLoss"}, "does not fit"),
        ({"name": "DynamicSoftMarginLoss"}, "state"),
        ({"name": "SupConLoss", "params": {"heat": 1}}, "heat"),
        ({"name": "SupConLoss", "miner": "NoSuchMiner"}, "NoSuchMiner"),
    ],
)
def test_losses_that_do_not_fit_are_refused_with_the_reason(config, says):
    with pytest.raises(ValueError, match=says):
        build_loss(LossConfig(**config))

"""Miners of PyTorch Metric Learning: the pairs that they select across the modalities, against loops."""

import math
from itertools import product

import pytest
import torch
from pytorch_metric_learning import miners

from tern.config import LossConfig
from tern.losses.build import build_loss
from tern.losses.metric_learning import UNSUPPORTED_MINERS
from tests.helpers.tern_world import FITTING, batch

FITTING_MINERS = [
    "AngularMiner", "BatchEasyHardMiner", "BatchHardMiner", "DistanceWeightedMiner", "HDCMiner",
    "MultiSimilarityMiner", "PairMarginMiner", "TripletMarginMiner", "UniformHistogramMiner",
]  # fmt: skip


def compare_all(images, captions, y, z):
    """Cosines, distances, and the positions of positives and negatives of each image."""
    s = (images @ captions.T).tolist()
    d = [[float((a - b).norm()) for b in captions] for a in images]
    positive = [[j for j in range(len(z)) if z[j] == y[i]] for i in range(len(y))]
    negative = [[j for j in range(len(z)) if z[j] != y[i]] for i in range(len(y))]
    return s, d, positive, negative


def triplets(y, positive, negative):
    return [(i, p, n) for i in range(len(y)) for p, n in product(positive[i], negative[i])]


def slow_batch_hard(data):
    _, d, positive, negative = compare_all(*data)
    rows = [(row.__getitem__, positive[i], negative[i]) for i, row in enumerate(d)]
    return {(i, max(ps, key=far), min(ns, key=far)) for i, (far, ps, ns) in enumerate(rows)}


def slow_triplet_margin(kind):
    keep = {"all": lambda gap: gap <= 0.2, "hard": lambda gap: gap <= 0, "semihard": lambda gap: 0 < gap <= 0.2}[kind]

    def slow(data):
        _, d, positive, negative = compare_all(*data)
        return {(i, p, n) for i, p, n in triplets(data[2], positive, negative) if keep(d[i][n] - d[i][p])}

    return slow


def slow_angular(data):
    images, captions, y, _ = data
    _, d, positive, negative = compare_all(*data)

    def angle(i, p, n):
        return math.degrees(math.atan(d[i][p] / (2 * float((captions[n] - (images[i] + captions[p]) / 2).norm()))))

    return {(i, p, n) for i, p, n in triplets(y, positive, negative) if angle(i, p, n) > 20}


def slow_multi_similarity(data):
    s, _, positive, negative = compare_all(*data)
    anchors = range(len(s))
    near = {(i, n) for i in anchors for n in negative[i] if s[i][n] + 0.1 > min(s[i][p] for p in positive[i])}
    return {(i, p) for i in anchors for p in positive[i] if s[i][p] - 0.1 < max(s[i][n] for n in negative[i])}, near


def slow_pair_margin(data):
    _, d, positive, negative = compare_all(*data)
    return ({(i, p) for i in range(len(d)) for p in positive[i] if d[i][p] > 1.3},
            {(i, n) for i in range(len(d)) for n in negative[i] if d[i][n] < 1.4})  # fmt: skip


def slow_hdc(data):
    _, d, positive, negative = compare_all(*data)
    far = sorted(((i, p) for i in range(len(d)) for p in positive[i]), key=lambda pair: -d[pair[0]][pair[1]])
    near = sorted(((i, n) for i in range(len(d)) for n in negative[i]), key=lambda pair: d[pair[0]][pair[1]])
    return set(far[: math.ceil(len(far) / 2)]), set(near[: math.ceil(len(near) / 2)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("miner", "params", "slow"),
    [
        ("BatchHardMiner", {}, slow_batch_hard),
        *[("TripletMarginMiner", {"type_of_triplets": k}, slow_triplet_margin(k)) for k in ("all", "hard", "semihard")],
        ("AngularMiner", {}, slow_angular),
        ("MultiSimilarityMiner", {}, slow_multi_similarity),
        ("PairMarginMiner", {"pos_margin": 1.3, "neg_margin": 1.4}, slow_pair_margin),
        ("HDCMiner", {}, slow_hdc),
    ],
)
def test_miner_selects_the_pairs_of_a_loop(miner, params, slow, seed):
    data = [part.detach() for part in batch(seed=seed)]
    loss = build_loss(LossConfig(name="TripletMarginLoss", miner=miner, miner_params=params))
    images, captions, y, z = data
    selected = [indices.tolist() for indices in loss.miner(images, y, captions, z)]
    expected = slow(data)
    if len(selected) == 3:
        assert set(zip(*selected, strict=True)) == expected
    else:
        a, p, b, n = selected
        assert (set(zip(a, p, strict=True)), set(zip(b, n, strict=True))) == expected


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("miner", FITTING_MINERS)
def test_every_miner_works_with_every_loss_and_selects_true_pairs(miner, name):
    """Both labels are one tensor object and each image has one caption: the diagonal must not be dropped."""
    images, captions, y, _ = batch(captions=(1, 1, 1, 1, 1), seed=2)
    loss = build_loss(LossConfig(name=name, miner=miner))
    selected, original_forward = [], loss.miner.forward
    loss.miner.forward = lambda *data: selected.append((data[1], data[3], original_forward(*data))) or selected[-1][2]
    torch.manual_seed(0)
    loss(images, captions, y, y).backward()
    assert all(rows.grad is None or rows.grad.isfinite().all() for rows in (images, captions))
    assert len(selected) == (4 if loss.needs_joint_set else 2)
    for anchor_labels, other_labels, indices in selected:
        assert anchor_labels is not other_labels
        a, p = indices[:2]
        b, n = indices[-2:] if len(indices) == 4 else (indices[0], indices[2])
        assert (anchor_labels[a] == other_labels[p]).all()
        assert (anchor_labels[b] != other_labels[n]).all()


def test_every_miner_of_the_library_is_listed_as_supported_or_not():
    names = {name for name in dir(miners) if isinstance(getattr(miners, name), type)}
    assert names == set(FITTING_MINERS) | set(UNSUPPORTED_MINERS)

"""Miners of the library through the adapter: which pairs they pick across the modalities, against loops."""

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


def world(images, captions, y, z):
    """Cosines, distances, and the places of positives and negatives of each image."""
    s = (images @ captions.T).tolist()
    d = [[float((a - b).norm()) for b in captions] for a in images]
    right = [[j for j in range(len(z)) if z[j] == y[i]] for i in range(len(y))]
    wrong = [[j for j in range(len(z)) if z[j] != y[i]] for i in range(len(y))]
    return s, d, right, wrong


def triplets(y, right, wrong):
    return [(i, p, n) for i in range(len(y)) for p, n in product(right[i], wrong[i])]


def slow_batch_hard(data):
    _, d, right, wrong = world(*data)
    rows = [(row.__getitem__, right[i], wrong[i]) for i, row in enumerate(d)]
    return {(i, max(ps, key=far), min(ns, key=far)) for i, (far, ps, ns) in enumerate(rows)}


def slow_triplet_margin(kind):
    keep = {"all": lambda gap: gap <= 0.2, "hard": lambda gap: gap <= 0, "semihard": lambda gap: 0 < gap <= 0.2}[kind]

    def slow(data):
        _, d, right, wrong = world(*data)
        return {(i, p, n) for i, p, n in triplets(data[2], right, wrong) if keep(d[i][n] - d[i][p])}

    return slow


def slow_angular(data):
    images, captions, y, _ = data
    _, d, right, wrong = world(*data)

    def angle(i, p, n):
        return math.degrees(math.atan(d[i][p] / (2 * float((captions[n] - (images[i] + captions[p]) / 2).norm()))))

    return {(i, p, n) for i, p, n in triplets(y, right, wrong) if angle(i, p, n) > 20}


def slow_multi_similarity(data):
    s, _, right, wrong = world(*data)
    every = range(len(s))
    return ({(i, p) for i in every for p in right[i] if s[i][p] - 0.1 < max(s[i][n] for n in wrong[i])},
            {(i, n) for i in every for n in wrong[i] if s[i][n] + 0.1 > min(s[i][p] for p in right[i])})  # fmt: skip


def slow_pair_margin(data):
    _, d, right, wrong = world(*data)
    return ({(i, p) for i in range(len(d)) for p in right[i] if d[i][p] > 1.3},
            {(i, n) for i in range(len(d)) for n in wrong[i] if d[i][n] < 1.4})  # fmt: skip


def slow_hdc(data):
    _, d, right, wrong = world(*data)
    far = sorted(((i, p) for i in range(len(d)) for p in right[i]), key=lambda pair: -d[pair[0]][pair[1]])
    near = sorted(((i, n) for i in range(len(d)) for n in wrong[i]), key=lambda pair: d[pair[0]][pair[1]])
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
def test_a_miner_picks_what_a_loop_picks(miner, params, slow, seed):
    data = [part.detach() for part in batch(seed=seed)]
    loss = build_loss(LossConfig(name="TripletMarginLoss", miner=miner, miner_params=params))
    images, captions, y, z = data
    found = [places.tolist() for places in loss.miner(images, y, captions, z)]
    expected = slow(data)
    if len(found) == 3:
        assert set(zip(*found, strict=True)) == expected
    else:
        a, p, b, n = found
        assert (set(zip(a, p, strict=True)), set(zip(b, n, strict=True))) == expected


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("miner", FITTING_MINERS)
def test_every_miner_goes_with_every_loss_and_picks_true_pairs(miner, name):
    """One tensor object for both labels, each image with one caption: the diagonal must not be lost."""
    images, captions, y, _ = batch(captions=(1, 1, 1, 1, 1), seed=2)
    loss = build_loss(LossConfig(name=name, miner=miner))
    picked, mine = [], loss.miner.forward
    loss.miner.forward = lambda *data: picked.append((data[1], data[3], mine(*data))) or picked[-1][2]
    torch.manual_seed(0)
    loss(images, captions, y, y).backward()
    assert all(rows.grad is None or rows.grad.isfinite().all() for rows in (images, captions))
    assert len(picked) == (4 if loss.joined else 2)
    for own, other, found in picked:
        assert own is not other
        a, p = found[:2]
        b, n = found[-2:] if len(found) == 4 else (found[0], found[2])
        assert (own[a] == other[p]).all()
        assert (own[b] != other[n]).all()


def test_every_miner_of_the_library_is_listed_as_fitting_or_as_refused():
    there = {name for name in dir(miners) if isinstance(getattr(miners, name), type)}
    assert there == set(FITTING_MINERS) | set(UNSUPPORTED_MINERS)

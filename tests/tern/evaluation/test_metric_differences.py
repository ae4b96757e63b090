"""Every metric of two evaluations against `summarize_ranks` and a loop over bootstrap samples."""

import numpy as np
import pytest

from tern.evaluation.compare import NUM_RESAMPLES, compare_ranks
from tern.evaluation.metric_differences import compare_metrics
from tern.evaluation.metrics import MissedQueries, summarize_ranks
from tern.evaluation.ranks import SplitRanks

IMAGES = [f"i{number}" for number in range(12)]
CAPTIONS = [f"{image}#{number}" for image in IMAGES for number in range(2)]
IMAGE_IDS = {name: name.partition("#")[0] for name in (*IMAGES, *CAPTIONS)}


def draw_ranks(seed, missed=()):
    draw = np.random.default_rng(seed)
    t2i = {name: None if name in missed else int(draw.integers(1, 13)) for name in CAPTIONS}
    i2t = {name: None if name in missed else int(draw.integers(1, 25)) for name in IMAGES}
    return SplitRanks(t2i=t2i, i2t=i2t)


def summarize(t2i, i2t):
    """The metrics of lists of ranks from 1, as the evaluation computes them; None is a missed query."""
    found = [np.array([rank - 1 for rank in ranks if rank is not None]) for ranks in (i2t, t2i)]
    missed = MissedQueries(sum(rank is None for rank in i2t), sum(rank is None for rank in t2i))
    return summarize_ranks(*found, missed).flat()


def test_metrics_are_those_of_the_evaluation_also_with_missed_queries():
    ranks, other = draw_ranks(0, ("i3", "i3#0")), draw_ranks(1)
    result = compare_metrics(ranks, other, IMAGE_IDS)
    for attribute, side in (("value", ranks), ("other", other)):
        expected = summarize([*side.t2i.values()], [*side.i2t.values()])
        assert {name: getattr(one, attribute) for name, one in result.items()} == pytest.approx(expected)
    assert {name: one.num_queries for name, one in result.items()} == {
        name: {"t2i": 24, "i2t": 12, "rsum": 36}[name.partition("_")[0]] for name in result
    }


def test_intervals_are_those_of_a_loop_that_draws_images_with_their_queries():
    ranks, other = draw_ranks(2), draw_ranks(3)
    draw, differences = np.random.default_rng(0), []
    names = sorted(IMAGES)
    for _ in range(NUM_RESAMPLES):
        images = [names[row] for row in draw.integers(0, len(names), len(names))]
        this, that = (
            summarize(
                [side.t2i[f"{name}#{number}"] for name in images for number in range(2)],
                [side.i2t[name] for name in images],
            )
            for side in (ranks, other)
        )
        differences.append({name: this[name] - that[name] for name in this})
    for name, one in compare_metrics(ranks, other, IMAGE_IDS).items():
        low, high = np.percentile([sample[name] for sample in differences], [2.5, 97.5])
        assert (one.low, one.high) == pytest.approx((low, high)), name
    one = compare_ranks(ranks.t2i, other.t2i, IMAGE_IDS, 1)
    same = compare_metrics(ranks, other, IMAGE_IDS)["t2i_r1"]
    assert (same.low, same.high) == pytest.approx((one.low, one.high)), "the page shows both"


def test_queries_of_one_evaluation_alone_are_left_out():
    ranks = draw_ranks(4)
    part = SplitRanks(t2i={name: rank for name, rank in ranks.t2i.items() if name < "i4"} | {"x": 1}, i2t={"y": 1})
    result = compare_metrics(ranks, part, IMAGE_IDS)
    assert set(result) == {"t2i_r1", "t2i_r5", "t2i_r10", "t2i_medr", "t2i_meanr"}, "no image query is shared"
    assert all((one.value, one.low, one.high) == (one.other, 0, 0) for one in result.values())
    with pytest.raises(ValueError, match="no query in common"):
        compare_metrics(ranks, SplitRanks(t2i={"x": 1}, i2t={}), {})

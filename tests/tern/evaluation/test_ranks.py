"""Ranks of the queries: what the file holds, metrics of groups, and two evaluations compared."""

import json
from itertools import product
from math import comb

import numpy as np
import pytest

from tern.evaluation.compare import bootstrap_mean, compare_ranks, sign_test
from tern.evaluation.groups import measure_group
from tern.evaluation.ranks import EvaluationRanks, SplitRanks, make_split_ranks, read_ranks, write_ranks
from tern.evaluation.usable import ABSENT, MISSED, NO_QUERY, rank_usable

RANKS = SplitRanks(t2i={"a#0": 1, "a#1": 12, "b#0": None}, i2t={"a": 2, "b": None})


def test_ranks_name_queries_that_are_missed_and_leave_out_images_without_captions():
    images = np.array([[1, 0], [0, 1], [np.nan, 0], [0.6, 0.8], [np.nan, 1], [0.8, 0.6]])
    captions = np.array([[1, 0], [0.6, 0.8], [0, 0], [1, 0], [np.inf, 0]])
    owners = ["a", "b", "b", "c", "f"]  # c has no vector, d and e have no caption, the caption of f has no vector
    i2t, t2i = rank_usable(images, list("abcdef"), captions, owners)
    assert i2t.tolist() == [0, 0, MISSED, NO_QUERY, ABSENT, MISSED]
    assert t2i.tolist() == [0, 2, MISSED, MISSED, MISSED], "d and f are nearer to the caption of b than b"
    ranks = make_split_ranks(i2t, t2i, list("abcdef"), list("vwxyz"))
    assert ranks.i2t == {"a": 1, "b": 1, "c": None, "f": None}
    assert ranks.t2i == {"v": 1, "w": 3, "x": None, "y": None, "z": None}


def test_ranks_survive_the_file(tmp_path):
    ranks = EvaluationRanks(splits={"test": RANKS})
    path = write_ranks(tmp_path / "ranks-1.json", ranks)
    assert read_ranks(path) == ranks
    assert '"a#1": 12' in path.read_text().replace("\n", ""), "one query per line, for grep"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "ranks schema 2, written by a newer version"),
        ({"version": "x"}, "ranks schema 'x'"),
        ({"version": True}, "does not hold ranks|ranks schema True"),
        ({"splits": {"test": {"t2i": {"a": 0}, "i2t": {}}}}, "does not hold ranks: .*greater than 0"),
        ({"splits": {"test": {"t2i": {"a": 1.5}, "i2t": {}}}}, "does not hold ranks"),
        ({"splits": {"test": {"t2i": {}}}}, "does not hold ranks"),
        ({"other": 1}, "does not hold ranks"),
        ([], "does not hold ranks"),
        ("{", "is not valid JSON"),
    ],
)
def test_file_that_holds_no_ranks_is_named(change, message, tmp_path):
    path = tmp_path / "ranks-1.json"
    good = {"version": 1, "splits": {"test": {"t2i": {"a": 1}, "i2t": {}}}}
    content = good | change if isinstance(change, dict) else change
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"ranks-1\.json.*({message}).*Run `tern evaluate`"):
        read_ranks(path)


def test_group_has_recalls_with_intervals_and_the_mean_reciprocal_rank():
    metrics = measure_group([1, 2, 11, None, 1], num_images=2)
    assert (metrics.r1.value, metrics.r10.value) == (40, 60)
    assert metrics.mrr == pytest.approx((1 + 1 / 2 + 1 / 11 + 0 + 1) / 5)
    assert metrics.is_small
    assert not measure_group([1] * 20, 20).is_small
    for bound in (metrics.r1.low, metrics.r1.high):  # Wilson's bounds p solve |share - p| = z sqrt(p (1 - p) / n)
        p = bound / 100
        assert abs(0.4 - p) == pytest.approx(1.96 * (p * (1 - p) / 2) ** 0.5)


@pytest.mark.parametrize(("won", "lost"), product((0, 1, 5, 30), (0, 2, 5, 41)))
def test_sign_test_equals_the_tails_of_a_fair_coin(won, lost):
    total, far = won + lost, abs(won - lost)
    tails = sum(comb(total, heads) for heads in range(total + 1) if abs(2 * heads - total) >= far)
    assert sign_test(won, lost) == pytest.approx(tails / 2**total)


def test_comparison_counts_queries_won_and_lost():
    ranks = {"a#0": 1, "a#1": 3, "b#0": None, "b#1": 1, "c#0": 1}
    other = {"a#0": 2, "a#1": 1, "b#0": 1, "b#1": 1, "d#0": 1}
    result = compare_ranks(ranks, other, {name: name[0] for name in ranks}, k=1)
    assert (result.won, result.lost, result.num_queries, result.num_unshared) == (("a#0",), ("a#1", "b#0"), 4, 2)
    assert (result.recall, result.other_recall, result.difference, result.p_value) == (50, 75, -25, 1)
    assert (result.low, result.high) == (-50, 0), "only b can be drawn twice, and a alone changes nothing"
    assert compare_ranks(ranks, other, {name: name[0] for name in ranks}, k=3).lost == ("b#0",)
    with pytest.raises(ValueError, match="no query in common"):
        compare_ranks(ranks, {"x": 1}, {}, k=1)


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_images():
    draw = np.random.default_rng(5)
    sums, counts = draw.normal(size=4000) * 5, np.full(4000, 5)
    low, high = bootstrap_mean(sums, counts)
    mean, error = sums.sum() / counts.sum(), sums.std() / 5 / 4000**0.5
    assert [low, high] == pytest.approx([mean - 1.96 * error, mean + 1.96 * error], abs=0.15 * error)
    assert bootstrap_mean(sums, counts) == (low, high), "equal arguments give equal intervals"

"""Calibrated scores, against sklearn, slow loops, and a world whose true probabilities are known."""

import numpy as np
import pytest

from index.collection import QueryLabels
from index.search.probabilities import compute_probabilities
from index.tuning.calibrate import (
    DEPTH,
    MAX_LOST,
    MIN_QUERIES,
    LabeledHits,
    calibrate_scores,
    fit_calibration,
    make_random_directions,
    measure_reliability,
)
from index.tuning.isotonic import fit_isotonic
from tests.helpers.index_world import make

RNG_CASES = [
    pytest.param(seed, n, digits, id=f"{n} inputs, {digits} digits")
    for seed, (n, digits) in enumerate([(1, 3), (2, 3), (7, 1), (60, 6), (400, 2), (400, 1)])
]


def draw(seed, n, digits):
    """Draw inputs with ties if digits are few, noisy targets and weights."""
    rng = np.random.default_rng(seed)
    inputs = np.round(rng.random(n), digits)
    return inputs, (rng.random(n) < inputs).astype(float), rng.random(n) + 0.1


@pytest.mark.parametrize(("seed", "n", "digits"), RNG_CASES)
def test_fit_isotonic_equals_sklearn(seed, n, digits):
    isotonic = pytest.importorskip("sklearn.isotonic")
    inputs, targets, weights = draw(seed, n, digits)
    found = fit_isotonic(inputs, targets, weights)
    points = np.linspace(-0.2, 1.2, 300)
    expected = isotonic.IsotonicRegression(out_of_bounds="clip").fit(inputs, targets, sample_weight=weights)
    np.testing.assert_allclose(np.interp(points, found.inputs, found.values), expected.predict(points), atol=1e-5)


@pytest.mark.parametrize(("seed", "n", "digits"), RNG_CASES[:4])
def test_fit_isotonic_equals_the_min_max_formula(seed, n, digits):
    """Barlow et al., 1972: the value at i is the maximum over a <= i of the minimum over b >= i of mean(a..b)."""
    inputs, targets, weights = draw(seed, n, digits)
    unique = np.unique(inputs)
    sums = np.array([[weights[inputs == x].sum(), (weights * targets)[inputs == x].sum()] for x in unique])

    def mean(a, b):
        weight, total = sums[a : b + 1].sum(axis=0)
        return total / weight

    last = len(unique)
    expected = [max(min(mean(a, b) for b in range(i, last)) for a in range(i + 1)) for i in range(last)]
    found = fit_isotonic(inputs, targets, weights)
    np.testing.assert_allclose(np.interp(unique, found.inputs, found.values), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        pytest.param([], [], id="no inputs"),
        pytest.param([np.nan], [1.0], id="an input that is no number"),
        pytest.param([0.5], [np.inf], id="a target that is not finite"),
    ],
)
def test_fit_isotonic_rejects_what_has_no_order(inputs, targets):
    with pytest.raises(ValueError, match="at least one input, and finite numbers"):
        fit_isotonic(np.array(inputs), np.array(targets))


def make_hits(seed, num_queries, truth=None, k=DEPTH):
    """Make hits whose right one is drawn from a softmax with sharpness 30; `truth` replaces the draw."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(0.6, 0.06, (num_queries, k)))[:, ::-1]
    chances = np.exp(30 * scores) / np.exp(30 * scores).sum(axis=1, keepdims=True)
    right = (rng.random((num_queries, 1)) < chances.cumsum(axis=1)).argmax(axis=1)
    is_right = np.arange(k) == right[:, None] if truth is None else np.full(scores.shape, truth)
    return LabeledHits(scores, is_right, np.arange(num_queries)[:, None] % 2), chances


UNANSWERED = np.linspace(0.2, 0.5, 50)  # below all best scores


def test_probabilities_agree_with_a_world_whose_chances_are_known():
    hits, _ = make_hits(0, 4_000)
    calibration = fit_calibration(hits, UNANSWERED, "held-out", 1_000)
    fresh, chances = make_hits(1, 4_000)
    found = compute_probabilities(calibration, fresh.scores)
    assert np.abs(found - chances).mean() < 0.02
    assert measure_reliability(found, fresh.is_right)[0] < 0.02
    assert calibration.reliability.error < 0.02
    lost = np.where(fresh.is_right, found, 0).max(axis=1) < calibration.min_probability
    assert 0.5 * MAX_LOST < lost.mean() < 1.5 * MAX_LOST
    assert calibration.reliability.right_lost <= MAX_LOST
    below = np.full((1, DEPTH), 0.3)
    assert (compute_probabilities(calibration, below) < calibration.min_probability).all(), "nothing matches"


def test_probability_never_falls_with_the_score_at_any_rank_nor_rises_with_the_rank():
    calibration = fit_calibration(make_hits(0, 200)[0], UNANSWERED, "held-out", 1_000)
    scores = make_hits(1, 50)[0].scores
    found = compute_probabilities(calibration, scores)
    assert (np.diff(found, axis=1) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    for rank in range(DEPTH):
        ceiling = scores[:, rank - 1] if rank else scores[:, 0] + 0.1
        higher = scores.copy()
        higher[:, rank] = (scores[:, rank] + ceiling) / 2
        assert (compute_probabilities(calibration, higher)[:, rank] >= found[:, rank] - 1e-12).all()
    more = np.hstack([scores, scores[:, -1:] - 0.1])
    np.testing.assert_array_equal(compute_probabilities(calibration, more)[:, :DEPTH], found)


@pytest.mark.parametrize(
    ("truth", "k", "first"),
    [
        pytest.param(True, 1, 0.99, id="all right, one hit each"),
        pytest.param(True, DEPTH, 0.99, id="all right"),
        pytest.param(False, DEPTH, 0.0, id="all wrong"),
    ],
)
def test_calibration_of_extreme_worlds(truth, k, first):
    calibration = fit_calibration(make_hits(2, 100, truth, k)[0], UNANSWERED, "held-out", 1)
    found = compute_probabilities(calibration, np.full((1, k), 0.7))
    assert found[0, 0] == pytest.approx(first, abs=0.02)
    assert found.max() < 1, "no number of right hits is a certainty"
    assert calibration.min_probability <= found[0, 0]


def test_equal_scores_of_all_queries_give_the_share_of_right_hits():
    scores = np.full((40, 2), 0.5)
    is_right = np.zeros((40, 2), bool)
    is_right[:10, 0] = True
    hits = LabeledHits(scores, is_right, np.arange(40)[:, None] % 2)
    calibration = fit_calibration(hits, np.full(10, 0.5), "held-out", 2)
    assert compute_probabilities(calibration, scores[:1])[0] == pytest.approx([10 / 80, 10 / 80], abs=0.01)


def test_measure_reliability_equals_a_calculation_by_hand():
    probabilities, is_right = np.array([[0.05, 0.15, 0.15, 1.0]]), np.array([[False, True, False, True]])
    error, bins = measure_reliability(probabilities, is_right)
    assert error == pytest.approx((0.05 + 2 * 0.35 + 0) / 4)
    assert [(one.count, one.probability, one.right) for one in bins] == [(1, 0.05, 0), (2, 0.15, 0.5), (1, 1, 1)]


def test_calibrate_scores_finds_right_hits_by_id_and_by_score():
    """Captions of images whose vectors are known: by score they are judged as if the images were added."""
    collections, _ = make(3)
    images, captions = collections["image"], collections["caption"]
    queries = captions.vectors[::4]  # the first caption of every second image
    relevant = [{name[:-2]} for name in captions.ids[::4]]
    found = calibrate_scores(images, queries, QueryLabels(relevant_ids=relevant), "held-out", 0)
    exact = queries @ images.vectors.T
    own = exact[np.arange(len(queries)), np.arange(0, len(images.ids), 2)]
    rank = (exact > own[:, None]).sum(axis=1)
    assert found.reliability.num_queries == len(queries)
    assert found.reliability.right_found == pytest.approx((rank < DEPTH).mean(), abs=1e-4)
    assert found.rows == len(images.ids)
    others = images.exclude({name for line in relevant for name in line})
    by_score = calibrate_scores(others, queries, QueryLabels(relevant_scores=own), "calibration", 0)
    other_rank = (exact[:, 1::2] > own[:, None]).sum(axis=1)
    assert by_score.reliability.right_found == pytest.approx((other_rank < DEPTH).mean(), abs=1e-4)
    assert by_score.query_source == "calibration"


@pytest.mark.parametrize(
    ("count", "relevant"),
    [
        pytest.param(0, [], id="no query"),
        pytest.param(1, [{"a"}], id="one query"),
        pytest.param(MIN_QUERIES - 1, [{str(i)} for i in range(MIN_QUERIES - 1)], id="few queries"),
        pytest.param(60, [{"a"}] * 60, id="queries for one image, which are in one half"),
    ],
)
def test_calibrate_scores_needs_enough_queries_in_both_halves(count, relevant):
    collections, _ = make(3, images=60)
    vectors = collections["image"].vectors[:count]
    assert calibrate_scores(collections["image"], vectors, QueryLabels(relevant), "held-out", 0) is None


def test_random_directions_are_unit_vectors_like_the_queries():
    queries = make(1)[1]["image"]
    found = make_random_directions(queries, 4_000, 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), queries.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(found.T), np.cov(queries.T), atol=0.02)
    assert (make_random_directions(queries[:1] * 0, 3, 0) == 0).all(), "queries without a direction"

"""Baselines against other computations: all possible rankings, and least squares on stacked rows."""

from itertools import combinations

import numpy as np
import pytest

from tern.evaluation.baselines import chance_recall, fit_ridge


@pytest.mark.parametrize(("images", "captions_per_image"), [(20, 3), (4, 2), (9, 1)])
def test_chance_recall_is_the_mean_over_all_rankings(images, captions_per_image):
    """All positions of an image's captions are equally likely, and so are all positions of a caption's image."""
    recalls = chance_recall(images, captions_per_image)
    all_positions = list(combinations(range(images * captions_per_image), captions_per_image))
    for k in (1, 5, 10):
        assert recalls[f"t2i_r{k}"] == pytest.approx(100 * np.mean([position < k for position in range(images)]))
        assert recalls[f"i2t_r{k}"] == pytest.approx(100 * np.mean([min(positions) < k for positions in all_positions]))
    assert recalls["rsum"] == pytest.approx(sum(value for key, value in recalls.items() if key != "rsum"))


def test_fit_ridge_equals_least_squares_with_rows_of_the_penalty():
    draw = np.random.default_rng(1)
    x, y, image_index = draw.normal(3, 2, (9, 14)), draw.normal(1, 1, (18, 5)), np.repeat(np.arange(9), 2)
    weights = fit_ridge(x, y, image_index, 0.3)
    centered, target = x - x.mean(0), y.reshape(9, 2, 5).mean(1)
    penalty = np.sqrt(0.3 * (centered**2).mean() * 9)
    rows = np.vstack([centered, penalty * np.eye(14)])
    slow = np.linalg.lstsq(rows, np.vstack([target - target.mean(0), np.zeros((14, 5))]), rcond=None)[0]
    np.testing.assert_allclose(weights[:-1], slow, atol=1e-9)
    np.testing.assert_allclose(weights[-1], target.mean(0) - x.mean(0) @ slow, atol=1e-9)


@pytest.mark.parametrize(
    ("penalty", "image_index", "message"), [(0.0, [0, 1], "penalty of 0"), (1.0, [0, 0], "every image")]
)
def test_fit_ridge_rejects_invalid_input(penalty, image_index, message):
    with pytest.raises(ValueError, match=message):
        fit_ridge(np.eye(2), np.eye(2), np.array(image_index), penalty)

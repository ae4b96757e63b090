"""Baselines against other roads to the same numbers: all rankings there are, and least squares on stacked rows."""

from itertools import combinations

import numpy as np
import pytest

from tern.evaluation.baselines import chance_recall, fit_ridge


@pytest.mark.parametrize(("images", "each"), [(20, 3), (4, 2), (9, 1)])
def test_chance_is_the_mean_over_all_rankings(images, each):
    """Of an image's captions any places are as likely, and so is any place of a caption's image."""
    found, places = chance_recall(images, each), list(combinations(range(images * each), each))
    for k in (1, 5, 10):
        assert found[f"t2i_r{k}"] == pytest.approx(100 * np.mean([place < k for place in range(images)]))
        assert found[f"i2t_r{k}"] == pytest.approx(100 * np.mean([min(where) < k for where in places]))
    assert found["rsum"] == pytest.approx(sum(value for key, value in found.items() if key != "rsum"))


def test_ridge_is_least_squares_on_rows_of_the_penalty():
    draw = np.random.default_rng(1)
    x, y, owners = draw.normal(3, 2, (9, 14)), draw.normal(1, 1, (18, 5)), np.repeat(np.arange(9), 2)
    found = fit_ridge(x, y, owners, 0.3)
    middle, target = x - x.mean(0), y.reshape(9, 2, 5).mean(1)
    heavy = np.sqrt(0.3 * (middle**2).mean() * 9)
    rows = np.vstack([middle, heavy * np.eye(14)])
    slow = np.linalg.lstsq(rows, np.vstack([target - target.mean(0), np.zeros((14, 5))]), rcond=None)[0]
    np.testing.assert_allclose(found[:-1], slow, atol=1e-9)
    np.testing.assert_allclose(found[-1], target.mean(0) - x.mean(0) @ slow, atol=1e-9)


@pytest.mark.parametrize(("penalty", "owners", "says"), [(0.0, [0, 1], "penalty of 0"), (1.0, [0, 0], "every image")])
def test_ridge_refuses(penalty, owners, says):
    with pytest.raises(ValueError, match=says):
        fit_ridge(np.eye(2), np.eye(2), np.array(owners), penalty)

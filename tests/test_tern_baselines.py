"""Baselines against other roads to the same numbers: a draw, and least squares on stacked rows."""

import numpy as np
import pytest

from tern.baselines import chance, ridge
from tern.metrics import retrieval_metrics


def test_chance_is_the_mean_of_random_rankings():
    draw = np.random.default_rng(0)
    owners = np.repeat(np.arange(20), 3)
    seen: dict[str, list[float]] = {}
    for _ in range(400):
        images, captions = (draw.standard_normal((n, 64)).astype("float32") for n in (20, 60))
        for key, value in retrieval_metrics(images, np.arange(20), captions, owners).items():
            seen.setdefault(key, []).append(value)
    expected = chance(20, 3)
    assert all(abs(np.mean(seen[key]) - value) < 4 for key, value in expected.items())


def test_ridge_is_least_squares_on_rows_of_the_penalty():
    draw = np.random.default_rng(1)
    x, y, owners = draw.normal(3, 2, (9, 14)), draw.normal(1, 1, (18, 5)), np.repeat(np.arange(9), 2)
    found = ridge(x, y, owners, 0.3)
    middle, target = x - x.mean(0), y.reshape(9, 2, 5).mean(1)
    heavy = np.sqrt(0.3 * (middle**2).mean() * 9)
    rows = np.vstack([middle, heavy * np.eye(14)])
    slow = np.linalg.lstsq(rows, np.vstack([target - target.mean(0), np.zeros((14, 5))]), rcond=None)[0]
    np.testing.assert_allclose(found[:-1], slow, atol=1e-9)
    np.testing.assert_allclose(found[-1], target.mean(0) - x.mean(0) @ slow, atol=1e-9)


@pytest.mark.parametrize(("penalty", "owners", "says"), [(0.0, [0, 1], "penalty of 0"), (1.0, [0, 0], "every image")])
def test_ridge_refuses(penalty, owners, says):
    with pytest.raises(ValueError, match=says):
        ridge(np.eye(2), np.eye(2), np.array(owners), penalty)

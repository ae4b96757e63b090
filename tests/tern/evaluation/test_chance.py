"""Level of chance against the mean of simulated random rankings, and the interval of a recall around it."""

import numpy as np
import pytest

from tern.config import EvaluationConfig
from tern.evaluation import (
    ChanceRecalls,
    Evaluation,
    SplitVectors,
    chance_recalls,
    evaluate_vectors,
    is_near_chance,
    read_evaluation,
    write_evaluation,
)


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 0, 5, 3, 3, 2, 7, 1, 1, 4, 5, 5], [5] * 30])
def test_chance_recalls_equal_those_of_random_rankings(counts: list[int]) -> None:
    rng, trials = np.random.default_rng(0), 1500
    owners = np.repeat(np.arange(len(counts)), counts)
    hits = {f"{direction}_r{k}": 0.0 for direction in ("t2i", "i2t") for k in (1, 5, 10)}
    for _ in range(trials):
        images, captions = rng.permutation(len(counts)), owners[rng.permutation(len(owners))]
        for k in (1, 5, 10):
            hits[f"t2i_r{k}"] += 100 * np.isin(owners, images[:k]).mean()
            asked = np.unique(owners)
            hits[f"i2t_r{k}"] += 100 * np.isin(asked, captions[:k]).mean()
    chance = chance_recalls(counts)
    for key, total in hits.items():
        assert chance[key] == pytest.approx(total / trials, abs=2.0), key
    assert chance["rsum"] == pytest.approx(sum(hits.values()) / trials, abs=6.0)


def test_evaluation_of_three_images_has_a_level_of_chance_near_the_maximum(tmp_path) -> None:
    rng = np.random.default_rng(1)
    ids = ["a", "b", "c"]
    vectors = SplitVectors(
        rng.standard_normal((3, 4)), rng.standard_normal((6, 4)), ids, [*ids, *ids], [f"text {i}" for i in range(6)]
    )
    result = evaluate_vectors(EvaluationConfig(), vectors, "test", tmp_path)
    assert isinstance(result.chance, ChanceRecalls)
    # One of 3 images, and one of 2 of 6 captions: 33.3 % at rank 1, all within the first 5.
    assert result.chance.t2i_r1 == pytest.approx(100 / 3)
    assert result.chance.i2t_r1 == pytest.approx(100 / 3)
    assert result.chance.t2i_r5 == result.chance.i2t_r5 == result.chance.i2t_r10 == 100
    path = write_evaluation(tmp_path / "metrics.json", Evaluation(splits={"test": result}))
    assert read_evaluation(path).splits["test"] == result


@pytest.mark.parametrize(
    ("recall", "chance", "num_queries", "expected"),
    [
        (100, 100, 3, True),
        (100, 33.3, 3, True),  # the interval of 3 of 3 starts at 43.8 without and 25.5 with the score's variance
        (93.4, 1.0, 100, False),
        (2.0, 1.0, 100, True),
        (35.3, 1.0, 100, False),
        (8.0, 1.0, 100, False),
        (0, 10, 10, True),
        (50, 10, 20, False),
    ],
)
def test_recall_is_near_chance_if_its_interval_contains_it(recall, chance, num_queries, expected) -> None:
    # The interval by the definition of Wilson (1927): |share - p| <= z sqrt(p (1 - p) / n).
    p, share = chance / 100, recall / 100
    by_definition = abs(share - p) <= 1.96 * (p * (1 - p) / num_queries) ** 0.5 + 1e-12
    assert is_near_chance(recall, chance, num_queries) == by_definition
    assert by_definition == expected or (recall, chance) == (100, 33.3)

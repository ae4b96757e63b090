"""Scores of the second stage against a slow loop over pairs of rows."""

import numpy as np
import pytest

from data.alignment import (
    RowVectors,
    combine_scores,
    compute_alignment_scores,
    concatenate_rows,
    divide_score,
    encode_rows,
)

DIM = 6


def draw_rows(lengths: list[int], seed: int) -> RowVectors:
    draw = np.random.default_rng(seed)
    longest = max(lengths)
    vectors = draw.normal(size=(len(lengths), longest, DIM)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    weights = draw.uniform(0.1, 1, mask.shape).astype("f4") * mask
    return encode_rows(vectors, weights / weights.sum(axis=1, keepdims=True), mask)


def split(rows: RowVectors) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return decoded vectors and weights of each item, by a loop."""
    items, start = [], 0
    for length in rows.lengths.tolist():
        part = slice(start, start + length)
        items.append((rows.codes[part].astype("f8") / 127, rows.weights[part].astype("f8")))
        start += length
    return items


def score_slowly(query: RowVectors, items: RowVectors) -> list[float]:
    ((query_vectors, query_weights),) = split(query)
    scores = []
    for vectors, weights in split(items):
        forward = sum(w * max(float(q @ v) for v in vectors) for q, w in zip(query_vectors, query_weights, strict=True))
        reverse = sum(w * max(float(q @ v) for q in query_vectors) for v, w in zip(vectors, weights, strict=True))
        scores.append((forward + reverse) / 2)
    return scores


@pytest.mark.parametrize("lengths", [[1], [3, 1, 7, 2], [5, 5, 5]])
@pytest.mark.parametrize("query_rows", [1, 4])
def test_alignment_scores_equal_a_loop_over_pairs_of_rows(lengths, query_rows):
    query, items = draw_rows([query_rows], 0), draw_rows(lengths, 1)
    np.testing.assert_allclose(compute_alignment_scores(query, items), score_slowly(query, items), atol=1e-6)


def test_score_of_an_item_does_not_depend_on_other_items_or_their_order():
    query, items = draw_rows([3], 2), draw_rows([2, 6, 1, 4], 3)
    scores = compute_alignment_scores(query, items)
    for order in ([2], [3, 1], [0, 2, 1, 3, 0]):
        np.testing.assert_allclose(compute_alignment_scores(query, items.select(order)), scores[order], atol=1e-7)
    joined = concatenate_rows([items.select([0, 1]), items.select([2, 3])])
    np.testing.assert_array_equal(compute_alignment_scores(query, joined), scores)


def test_no_items_have_no_scores():
    assert compute_alignment_scores(draw_rows([3], 0), draw_rows([2], 1).select([])).shape == (0,)


def test_item_with_the_rows_of_the_query_has_the_highest_score():
    query = draw_rows([5], 4)
    assert compute_alignment_scores(query, query)[0] == pytest.approx(1, abs=0.02)  # codes of 8 bits


def test_parts_of_all_pairs_add_up_to_the_score():
    query, item = draw_rows([4], 5), draw_rows([3], 6)
    ((query_vectors, query_weights),), ((vectors, weights),) = split(query), split(item)
    expected = np.zeros((3, 4))
    for token in range(4):
        region = max(range(3), key=lambda number: query_vectors[token] @ vectors[number])
        expected[region, token] += query_weights[token] * (query_vectors[token] @ vectors[region]) / 2
    for region in range(3):
        token = max(range(4), key=lambda number: query_vectors[number] @ vectors[region])
        expected[region, token] += weights[region] * (query_vectors[token] @ vectors[region]) / 2
    divided = divide_score(query, item)
    np.testing.assert_allclose(divided.parts, expected.T, atol=1e-6)
    np.testing.assert_allclose(divided.cosines, query_vectors @ vectors.T, atol=1e-6)
    assert divided.parts.sum() == pytest.approx(compute_alignment_scores(query, item)[0], abs=1e-6)


def test_combined_scores_are_a_weighted_mean():
    cosines, alignments = np.array([0.2, 0.6], "f4"), np.array([1.0, 0.0], "f4")
    np.testing.assert_allclose(combine_scores(cosines, alignments, 0.25), [0.4, 0.45], atol=1e-7)
    np.testing.assert_array_equal(combine_scores(cosines, alignments, 0.0), cosines)


def test_query_of_several_items_or_of_another_dimension_is_refused():
    items = draw_rows([2], 0)
    other = RowVectors(np.zeros((1, 3), "i1"), np.ones(1, "f2"), np.array([1]))
    for query in (draw_rows([1, 1], 1), other):
        with pytest.raises(ValueError, match="Pass one query of the model"):
            compute_alignment_scores(query, items)

"""Words that explain a hit, in a world whose row vectors, words and boxes are known."""

from dataclasses import replace

import numpy as np
import pytest

from data.alignment import RowVectors, compute_alignment_scores, encode_vectors
from extractors.torch_free import Word
from pipeline.pages.cards import make_card
from pipeline.search.hits import WHOLE_IMAGE, Hit
from pipeline.search.stored_images import StoredBoxes
from pipeline.search.word_matches import choose_regions, match_words

DOG, CAT, STREET, RED = np.eye(4)
WORDS = [Word("two", 0, 3, (1,)), Word("dogs", 4, 8, (2, 3)), Word("street", 14, 20, (5,))]
BOXES = StoredBoxes(
    np.array([[0, 0, 400, 300], [10, 20, 110, 90], [200, 20, 260, 80], [0, 150, 400, 300]], np.float32),
    (400, 300),
    ("", "dog", "cat", "street"),
    is_grid=False,
)


def make_rows(vectors, weights):
    rows = np.array([vector / np.linalg.norm(vector) for vector in vectors])
    return RowVectors(encode_vectors(rows), np.array(weights, np.float16), np.array([len(rows)]))


# [CLS], two, dog, ##s, ",", street, [SEP]
QUERY = make_rows(
    [STREET + RED, DOG, DOG, DOG + CAT, RED, STREET + 0.5 * CAT, RED], [0.1, 0.1, 0.25, 0.15, 0.05, 0.3, 0.05]
)
IMAGE = make_rows([DOG + CAT + STREET + RED, DOG, CAT, STREET], [0.25] * 4)


def test_words_have_the_region_and_the_share_of_a_slow_loop():
    tokens, regions = QUERY.decode(), IMAGE.decode()
    values = np.zeros((len(regions), len(tokens)))
    for token, weight in enumerate(QUERY.weights.astype(float)):
        region = max(range(4), key=lambda number: tokens[token] @ regions[number])
        values[region, token] += weight * (tokens[token] @ regions[region])
    for region, weight in enumerate(IMAGE.weights.astype(float)):
        token = max(range(7), key=lambda number: tokens[number] @ regions[region])
        values[region, token] += weight * (tokens[token] @ regions[region])
    matches = match_words(WORDS, QUERY, IMAGE, BOXES)
    assert [(match.word, match.start, match.end) for match in matches] == [
        ("two", 0, 3),
        ("dogs", 4, 8),
        ("street", 14, 20),
    ]
    for match, word in zip(matches, WORDS, strict=True):
        of_word = sum(values[:, token] for token in word.tokens)
        assert match.share == pytest.approx(of_word.sum() / values.sum(), abs=1e-4)
        assert match.region == int(np.argmax(of_word))
        assert match.cosine == pytest.approx(
            max(tokens[token] @ regions[match.region] for token in word.tokens), abs=1e-4
        )
        assert match.box == tuple(BOXES.boxes[match.region].tolist())
    assert [match.label for match in matches] == ["dog", "dog", "street"]


def test_regions_of_a_hit_are_those_of_its_words():
    matches = match_words(WORDS, QUERY, IMAGE, BOXES)
    regions = choose_regions(matches)
    assert regions[0].label == "dog"
    assert [region.score for region in regions] == pytest.approx(
        [matches[0].share + matches[1].share, matches[2].share], abs=1e-6
    )
    many = [
        replace(matches[0], region=i, box=(0, 0, i, i), share=share) for i, share in enumerate((0.1, 0.4, -0.1, 0.3))
    ]
    assert [region.score for region in choose_regions(many)] == [0.4, 0.3]
    assert choose_regions([replace(matches[0], share=-0.2)]) == ()
    assert choose_regions([replace(matches[0], label=WHOLE_IMAGE)]) == ()


@pytest.mark.parametrize(
    ("stored", "image", "expected"),
    [
        pytest.param(None, IMAGE, (None, ""), id="no region store"),
        pytest.param(BOXES, make_rows([DOG], [1]), (None, ""), id="another number of regions than in the store"),
        pytest.param(replace(BOXES, is_grid=True), IMAGE, (None, "dog"), id="a cell of a grid"),
        pytest.param(
            BOXES, make_rows([DOG, CAT, CAT, CAT], [0.25] * 4), ((0, 0, 400, 300), WHOLE_IMAGE), id="whole image"
        ),
    ],
)
def test_box_is_shown_only_where_it_is_known(stored, image, expected):
    match = match_words(WORDS, QUERY, image, stored)[1]
    assert (match.box, match.label) == expected


def test_query_that_does_not_match_has_no_words():
    assert match_words(WORDS, make_rows([-DOG] * 7, [1 / 7] * 7), make_rows([DOG], [1]), None) == ()


def test_removal_of_the_named_region_lowers_the_score_most():
    """Each word has a region of its own, so that nothing replaces a region that is removed."""
    query = make_rows([DOG, CAT + 0.2 * DOG, STREET], [0.6, 0.3, 0.1])
    vectors, words = (
        [DOG, CAT, STREET, RED],
        [Word("dog", 0, 3, (0,)), Word("cat", 4, 7, (1,)), Word("street", 8, 14, (2,))],
    )
    score = compute_alignment_scores(query, make_rows(vectors, [0.25] * 4))[0]
    drops = []
    for removed in range(4):
        rest = [vector for number, vector in enumerate(vectors) if number != removed]
        drops.append(score - compute_alignment_scores(query, make_rows(rest, [1 / 3] * 3))[0])
    matches = match_words(words, query, make_rows(vectors, [0.25] * 4), None)
    by_share = sorted(matches, key=lambda match: -match.share)
    assert [match.region for match in by_share] == [0, 1, 2]
    assert sorted(range(4), key=lambda number: -drops[number])[:3] == [0, 1, 2]


def test_card_draws_the_regions_of_its_words(tmp_path):
    matches = match_words(WORDS, QUERY, IMAGE, BOXES)
    hit = Hit("a", 0.5, tmp_path / "gone.jpg", ("x",), choose_regions(matches), (400, 300), words=matches)
    card = make_card(hit)
    assert [(word.text, word.region) for word in card.words] == [("two", 0), ("dogs", 0), ("street", 1)]
    assert [(outline.number, outline.is_shown) for outline in card.outlines] == [(0, True), (1, True)]
    assert (card.outlines[0].x, card.outlines[0].width) == (10, 100)
    assert next(iter(card.labels))[0] == "dog"
    more = [replace(matches[0], region=9, box=(1, 2, 3, 4), label="cat", share=0.01), *matches]
    outlines = make_card(replace(hit, words=tuple(more))).outlines
    assert [outline.is_shown for outline in outlines] == [True, True, False], (
        "the third only while its word is pointed at"
    )
